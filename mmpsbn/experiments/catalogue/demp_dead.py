"""Dead neurons in the DemP paper (arXiv 2403.07688), where nothing is pruned."""

from ..experiment import Arm, Experiment, Options
from ..pictures import over_columns, over_steps
from ..scales import SCALES
from ..tables import ArmTable, GridTable
from ._shared import NOTHING_GOES
from .demp import (
    ACTIVATIONS,
    PENALTIES,
    TRAININGS,
    activation,
    demp,
    net_of,
    with_each_optimizer,
)

_LR, _DECAY = 'optim_wrapper.optimizer.lr', 'optim_wrapper.optimizer.weight_decay'
_EPS = 'optim_wrapper.optimizer.eps'
EXPERIMENTS = {}

_PEAKS = dict(smoke=(1e-3,), small=(1e-4, 1e-3), paper=(1e-5, 5e-5, 1e-4, 1e-3))
# batches: of 512 pictures, and all of an epoch
_LOOKS = dict(smoke=dict(few=1, all=5), small=dict(few=8, all=157), paper=dict(few=4, all=391))


def _watch(scale: str, eps: float) -> list[dict]:
    """Two looks an epoch."""
    return [
        dict(
            type='SparsityHook',
            name=name,
            measures=('dead', 'revival'),
            activations=dict(interval_epochs=1, num_batches=count, eps=eps),
        )
        for name, count in _LOOKS[scale].items()
    ]


def _over_time(scale: str) -> list[Arm]:
    penalised = {
        f'{peak:g}': demp(scale, prune=NOTHING_GOES, penalty=dict(peak=peak))
        for peak in _PEAKS[scale]
    }
    watch = {'custom_hooks': _watch(scale, eps=0.01)}
    return with_each_optimizer(scale, penalised, watch=_watch(scale, eps=0.0)) + [
        Arm(
            f'{kind}, LR {lr}',
            'demp_cls/resnet18_adam_cifar10.py',
            TRAININGS[scale] | activation(kind) | {_LR: lr} | watch,
        )
        for kind in (('Swish',) if scale == 'smoke' else ACTIVATIONS)
        for lr in ((0.05, 0.01) if scale == 'paper' else (0.05,))
    ]


EXPERIMENTS['demp-dead-neurons'] = Experiment(
    shows='figures 1, 8 and 12 of the DemP paper: dead neurons of ResNet-18 over the epochs, with '
    'other activations and under the penalty without pruning, as 512 pictures and as all tell, and '
    'their overlap with those that ever were dead',
    claim='Dead neurons accumulate early, also with Leaky ReLU and Swish, where |a| < 0.01 is '
    'dead; over 99 % of them stay so with Adam, three quarters with SGDM; 512 pictures tell as '
    'much as all.',
    arms={scale: _over_time(scale) for scale in SCALES},
    table=ArmTable(
        'optimizer, peak of the penalty; activation, rate of Adam',
        {
            'dead by 512 pictures, %': '{dead_by_epoch[few]:.1p}',
            'by all, %': '{dead_by_epoch[all]:.1p}',
            'overlap, %': '{overlap_by_epoch:.1p}',
            'revivals': '{revivals}',
            'top-1, %': '{top1:.1f}',
        },
    ),
    panels=[
        over_steps('epoch', y)
        for y in ('dead_by_epoch[few]', 'dead_by_epoch[all]', 'overlap_by_epoch')
    ],
)

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


def _by_setting(scale: str) -> list[Arm]:
    common = TRAININGS[scale] | {'custom_hooks': [dict(type='SparsityHook')]}
    base = {_LR: 0.05, _DECAY: 0.0}  # of figure 10
    arms: dict[str, Options] = {}  # by optimizer and setting
    for lr in _LRS[scale]:
        arms[f'SGDM, LR, {lr}'] = base | {_LR: lr}
    for size in _BATCHES[scale]:
        arms[f'SGDM, batch, {size}'] = base | _batch(size, common)
    for decay in _DECAYS[scale]:
        arms[f'SGDM, decay, {decay:g}'] = base | {_DECAY: decay}
    for optimizer, rates in _WIDE[scale].items():
        for lr in rates:
            for width in _WIDTHS[scale]:
                arms[f'{optimizer}, LR {lr}, width, {width}'] = base | net_of(width) | {_LR: lr}
    for lr, epsilons in _EPSILONS[scale].items():
        for eps in epsilons:
            arms[f'Adam, LR {lr}, eps, {eps:g}'] = {_LR: lr, _EPS: eps}
    return [
        Arm(name, f'demp_cls/resnet18_{name.split(",")[0].lower()}_cifar10.py', common | own)
        for name, own in arms.items()
    ]


EXPERIMENTS['demp-hyperparameters'] = Experiment(
    shows='figures 10 and 11 of the DemP paper: dead neurons of a dense ResNet-18 against learning '
    'rate, batch size, width and the eps of Adam; against decay, ours',
    claim='Wider nets, larger rates and smaller batches kill more neurons, a larger eps of Adam '
    'fewer: at a rate of 0.005 5.07 % at 1e-10 and none at 1e-4, at 0.01 12.6 and 0.47 %.',
    arms={scale: _by_setting(scale) for scale in SCALES},
    table=ArmTable(
        'optimizer, setting', {'dead, %': '{inactive_share:.1p}', 'top-1, %': '{top1:.1f}'}
    ),
    panels=[over_columns('rate, batch size, decay, width or eps', 'inactive_share')],
)

# figure 2; its optimizer is not said, nor the values of the noise: those of figure 6
_STDS = dict(smoke=(5e-4,), small=(5e-4,), paper=(5e-5, 1e-4, 5e-4, 1e-3))
_STRENGTHS = dict(smoke=(1e-3,), small=(3e-4, 1e-3, 3e-3), paper=(1e-3, 2.5e-3, 5e-3, 1e-2))


def _by_strength(scale: str) -> list[Arm]:
    ways = {name: (of, 0.0) for name, of in ({'Lasso on gamma': {}} | PENALTIES).items()}
    ways |= {f'Lasso on gamma and noise of {std:g}': ({}, std) for std in _STDS[scale]}
    arms = {
        f'{name}, {peak:g}': demp(
            scale,
            prune=NOTHING_GOES,
            penalty=dict(penalty, peak=peak),
            noise=dict(peak_std=std),
        )
        for name, (penalty, std) in ways.items()
        for peak in _STRENGTHS[scale]
    }
    return with_each_optimizer(scale, arms)


EXPERIMENTS['demp-dead-ratio'] = Experiment(
    shows='figure 2 of the DemP paper: dead units of ResNet-18 against the strength of penalties, '
    'and with noise on what lives, without pruning',
    claim='A stronger penalty leaves a larger share of dead units, and so does asymmetric noise on '
    'the weights of live ones.',
    arms={scale: _by_strength(scale) for scale in SCALES},
    table=GridTable('dead % / top-1 % at peak', '{inactive_share:.1p} / {top1:.1f}'),
    panels=[over_columns('peak of the penalty', 'inactive_share')],
)
