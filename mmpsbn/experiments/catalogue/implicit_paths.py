from ..experiment import Experiment, sweep
from ..pictures import over_steps
from ..scales import KEEP_ALL, PICTURES_100
from ..tables import ArmTable
from ._implicit import CONFIG_100, NETS, training

_ARMS = {'Adam L2': (1e-5, 1e-4), 'SGD L2': (5e-4,)}

EXPERIMENT = Experiment(
    shows='figure 2 of the implicit-sparsity paper and the C6 half of supplementary figure 1: '
    'gamma and beta of C6 over the epochs on CIFAR-100, as percentiles over its channels',
    claim='Gamma is positive with both optimizers; beta is negative with Adam, of both signs with '
    'SGD, so that Adam learns more selective features, which the stronger L2 prunes.',
    arms=sweep(
        CONFIG_100,
        NETS,
        lambda scale: {
            f'{optimizer}, {decay:g}': training(scale, optimizer, decay) | KEEP_ALL
            for optimizer, decays in _ARMS.items()
            for decay in (decays[:1] if scale == 'smoke' else decays)
        },
    ),
    table=ArmTable(
        'optimizer, decay',
        {
            f'{name}, percentile {at}': f'{{{name}_path[p{at}]:.3f}}'
            for name in ('gamma', 'beta')
            for at in (5, 50, 95)
        },
    ),
    panels=[
        over_steps('epoch', f'{name}_path[p{at}]') for name in ('gamma', 'beta') for at in (5, 95)
    ],
    data=PICTURES_100,
)
