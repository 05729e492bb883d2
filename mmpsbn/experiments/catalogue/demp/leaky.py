"""figure 15 of the DemP paper: ResNet-18 with Leaky ReLU, DemP, which removes what is never
positive, beside the structured baselines"""

from ...experiment import Experiment
from ._baselines import BASELINES, GAMMAS_AT_ONE, structured
from ._resnet18 import activation, with_each_optimizer

EXPERIMENT = Experiment(
    claim='With Adam DemP outperforms the structured baselines with Leaky ReLU too, with SGDM it '
    'is like them.',
    arms=lambda scale: with_each_optimizer(
        scale,
        structured(scale, criterion='never_positive'),
        **GAMMAS_AT_ONE,
        **activation('Leaky ReLU'),
    ),
    **BASELINES,
)
