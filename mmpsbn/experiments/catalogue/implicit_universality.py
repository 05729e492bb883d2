from ..experiment import Experiment, sweep
from ..pictures import over_steps
from ..tables import ArmTable
from ._implicit import CONFIG, NETS, training

_SIZES = dict(smoke=(80,), small=(40,), paper=(160, 80, 40, 20))


def _arms(scale: str) -> dict:
    decay = 1e-3 if scale == 'small' else 1e-4
    arms = {f'Adam, batch {n}': training(scale, 'Adam L2', decay, n) for n in _SIZES[scale]}
    return arms | {'SGD, batch 40': training(scale, 'SGD L2', 5e-4)}


EXPERIMENT = Experiment(
    shows='supplementary figure 2 of the implicit-sparsity paper, CIFAR-10, with one decay for '
    'each optimizer, and the CIFAR-10 part of figure 5: mean universality of the features that are '
    'ever active by layer, Adam and SGD, and by batch size (the figures have its distribution)',
    claim='In later layers Adam learns less universal, more selective features than SGD; the '
    'larger the batch, the more selective ones are left.',
    arms=sweep(CONFIG, NETS, _arms),
    table=ArmTable(
        'mean universality of layer',
        {'inactive, %': '{inactive_share:.0p}', 'test error, %': '{error:.1f}'},
        step='{universality_by_layer:.2f}',
        step_head='C{}',
    ),
    panels=[over_steps('convolution', 'universality_by_layer')],
)
