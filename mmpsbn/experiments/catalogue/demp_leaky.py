from ..experiment import Experiment
from ._demp import SCALES, activation, with_each_optimizer
from .demp_baselines import EXPERIMENT as BASELINES
from .demp_baselines import NET, structured

EXPERIMENT = Experiment(
    shows='figure 15 of the DemP paper: ResNet-18 with Leaky ReLU, DemP, which removes what is '
    'never positive, beside the structured baselines',
    claim='With Adam DemP outperforms the structured baselines with Leaky ReLU too, with SGDM it '
    'is like them.',
    arms={
        scale: with_each_optimizer(
            scale,
            structured(scale, criterion='never_positive'),
            **NET,
            **activation('Leaky ReLU'),
        )
        for scale in SCALES
    },
    table=BASELINES.table,
    panels=BASELINES.panels,
)
