"""figures 10 and 11 of the DemP paper: dead neurons of a dense ResNet-18 against learning rate,
batch size, width and the eps of Adam; against decay, ours"""

from ...experiment import Arm, Experiment, Options
from ...pictures import over_columns
from ...tables import ArmTable
from .._shared import DECAY, LR
from ._resnet18 import TRAININGS, config_of, net_of

# figure 10, with SGDM; decay is ours: the caption names it, no axis does
_LRS = dict(smoke=(), small=(0.05, 0.1), paper=(0.01, 0.025, 0.05, 0.075, 0.1))
_BATCHES = dict(smoke=(32,), small=(32,), paper=(16, 32, 64, 256))  # 128 is the base's
_DECAYS = dict(smoke=(), small=(2e-3,), paper=(5e-4, 2e-3))
# figure 10, left: width of the first layer, rates
_WIDTHS = dict(smoke=(), small=(8, 16, 32), paper=(10, 20, 30, 40, 50, 60))
_WIDE = dict(smoke={}, small={'SGDM': (0.3,)}, paper={'Adam': (0.05, 0.01), 'SGDM': (0.3, 0.5)})
# figure 11, with Adam: rate -> eps; of the paper the ends are in its text, the others ours
_EPSILONS = dict(
    smoke={0.005: (1e-4,)},
    small={0.005: (1e-10, 1e-4)},
    paper=dict.fromkeys((0.005, 0.01), (1e-10, 1e-8, 1e-6, 1e-4)),
)


def _batch(size: int, common: Options) -> Options:
    """As many steps."""
    key = 'train_dataloader.batch_size'
    of_epochs = ('train_cfg.max_epochs', 'train_cfg.val_interval', 'param_scheduler.step_size')
    share = size / common[key]
    return {key: size} | {of: max(1, round(common[of] * share)) for of in of_epochs}


def _arms(scale: str) -> list[Arm]:
    common = TRAININGS[scale] | {'custom_hooks': [dict(type='SparsityHook')]}
    base = {LR: 0.05, DECAY: 0.0}  # of figure 10
    arms: dict[str, Options] = {}  # by optimizer and setting
    for lr in _LRS[scale]:
        arms[f'SGDM, LR, {lr}'] = base | {LR: lr}
    for size in _BATCHES[scale]:
        arms[f'SGDM, batch, {size}'] = base | _batch(size, common)
    for decay in _DECAYS[scale]:
        arms[f'SGDM, decay, {decay:g}'] = base | {DECAY: decay}
    for optimizer, rates in _WIDE[scale].items():
        for lr in rates:
            for width in _WIDTHS[scale]:
                arms[f'{optimizer}, LR {lr}, width, {width}'] = base | net_of(width) | {LR: lr}
    for lr, epsilons in _EPSILONS[scale].items():
        for eps in epsilons:
            arms[f'Adam, LR {lr}, eps, {eps:g}'] = {LR: lr, 'optim_wrapper.optimizer.eps': eps}
    return [Arm(name, config_of(name.split(',')[0]), common | own) for name, own in arms.items()]


EXPERIMENT = Experiment(
    claim='Wider nets, larger rates and smaller batches kill more neurons, a larger eps of Adam '
    'fewer: at a rate of 0.005 5.07 % at 1e-10 and none at 1e-4, at 0.01 12.6 and 0.47 %.',
    arms=_arms,
    table=ArmTable(
        'optimizer, setting', {'dead, %': '{inactive_share:.1p}', 'top-1, %': '{top1:.1f}'}
    ),
    panels=over_columns('rate, batch size, decay, width or eps', 'inactive_share'),
)
