from ..experiment import Experiment, sweep
from ..pictures import over_steps
from ..scales import KEEP_ALL
from ..tables import ArmTable
from ._psbn import CONFIG, NORMS, rounds

EXPERIMENT = Experiment(
    shows='figure 1b of the psBN paper: gamma and beta of a layer of ResNet-20 over two rounds, as '
    'percentiles over its channels',
    claim='Collapsed filters run from the outside to the origin.',
    arms=sweep(
        CONFIG,
        dict(
            smoke=rounds('smoke', 2) | KEEP_ALL,
            small=rounds('small', 2) | KEEP_ALL,
            paper=rounds('paper', 2) | KEEP_ALL,
        ),
        NORMS,
    ),
    table=ArmTable(
        'norm',
        {
            f'{name}, percentile {at}': f'{{{name}_path[p{at}]:.3f}}'
            for name in ('gamma', 'beta')
            for at in (5, 50, 95)
        },
    ),
    panels=[
        over_steps('epoch', f'{name}_path[p{at}]') for name in ('gamma', 'beta') for at in (5, 95)
    ],
)
