"""Deep, wide and VGG nets, their trainings, what is trained of them, how they are initialised, and
the tables over their sizes."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...experiment import Arms, Options, sweep
from ...pictures import over_columns, over_steps
from ...scales import length
from ...tables import GridTable
from .._shared import DECAY, FEW, width

CONFIG = 'cifar/resnet14_bn_cifar10_in_memory.py'
CONVOLUTIONS = dict(type='Kaiming', layer='Conv2d', mode='fan_in', nonlinearity='relu')
NORMS = dict(type='Uniform', layer='_BatchNorm', a=0.0, b=1.0, bias=0)


def _training(epochs: int, batch_size: int, weight_decay: float, bfloat16: bool = False) -> Options:
    """The rate is divided by 10 after a half and after three quarters."""
    return length(epochs, batch_size=batch_size, bfloat16=bfloat16) | {
        DECAY: weight_decay,
        'param_scheduler.milestones': [epochs // 2, epochs * 3 // 4],
    }


# small: S = 10 epochs * 157 steps * 0.1 * 2e-3 / 0.1 = 3.1 at the full rate, as the paper's 80
# epochs have with a decay of 1e-4; from 0.3 to 0.01 takes 3.4. Half of the test images, for each
# net is evaluated five times
_HALF = {f'{split}_dataloader.dataset.num_samples': 5_000 for split in ('val', 'test')}
TRAININGS = dict(
    smoke=_training(1, 32, 2e-3) | width(4),
    small=_training(20, 64, 2e-3, bfloat16=True) | _HALF,
    paper=_training(160, 128, 1e-4),
)


@dataclass(frozen=True)
class Family:
    """Nets of one kind.

    Attributes:
        size: ``'depth'`` or ``'width'``: what they differ in.
        sizes: scale -> which; the large ones take longest and come first.
        net: size -> options of the net.
        trainings: scale -> options of all.
    """

    size: str
    sizes: Mapping[str, Sequence[float]]
    net: Callable[[float], Options]
    config: str = CONFIG
    trainings: Mapping[str, Options] = field(default_factory=lambda: TRAININGS)

    def arms(self, rows: Mapping[str, Options], **shown: Collection[str]) -> Arms:
        """Arms ``'row, size'``; ``shown``: at a scale, which of the rows."""
        return lambda scale: sweep(
            self.config,
            self.trainings[scale],
            {
                f'{row}, {n}': self.net(n) | rows[row]
                for n in self.sizes[scale]
                for row in shown.get(scale, rows)
            },
        )

    @property
    def top1(self) -> dict[str, Any]:
        """Table and panel."""
        table = GridTable(f'top-1 % at {self.size}', '{top1:.1f}')
        return dict(table=table, panels=over_columns(self.size, 'top1'))

    @property
    def figures(self) -> dict[str, Any]:
        """Table and panels of what became of gamma, beta and the ReLUs: of figures 2 and 5 to 7,
        and the distributions of 4, 15 to 18 and 21 to 24, as quantiles."""
        names = [f'{of}_quantiles' for of in ('gamma', 'beta', 'zero')]
        return dict(
            table=GridTable(
                'top-1 % / |gamma| < 0.01, 0.05, 0.1 % / change of top-1 with these at 0 / '
                f'gamma < 0 % / ReLUs off %, at {self.size}',
                '{top1:.1f} / {small_gammas:.0p} / {change_clamped:+.1f} / {negative_gammas:.0p} / '
                '{relus_off:.0p}',
            ),
            panels=[
                *over_columns(self.size, 'top1', 'small_gammas[0.01]', 'relus_off'),
                *over_steps('5 % of the channels, from the smallest', *names, rows=('all', 'BN')),
            ],
        )


def of_depth(layers: int) -> Options:
    return {'model.backbone.depth': layers}


def _vgg(layers: int) -> Options:
    net = dict(type='VGG', norm_cfg=dict(type='BN'), with_last_pool=False)
    net |= dict(depth=layers, init_cfg=[CONVOLUTIONS, NORMS])
    return {'model.backbone': dict(net, _delete_=True), 'model.head.in_channels': 512}


DEEP = Family(
    'depth', dict(smoke=(8,), small=(32, 14), paper=(866, 434, 218, 110, 56, 32, 14)), of_depth
)
WIDE = Family(
    'width',
    dict(smoke=(0.25,), small=(2, 1, 0.5), paper=(32, 16, 8, 4, 2, 1)),
    lambda factor: width(int(16 * factor)),
    'cifar/wrn14x4_bn_cifar10_in_memory.py',
)
VGG = Family(
    'depth',
    dict(smoke=(11,), small=(11,), paper=(19, 16, 13, 11)),
    _vgg,
    trainings=TRAININGS | dict(smoke=TRAININGS['smoke'] | FEW),
)


def trained(*parts: str, **settings: Any) -> Options:
    """Only these parts, see ``FreezeHook``; all without any."""
    freeze = [dict(type='FreezeHook', train=list(parts), **settings)] if parts or settings else []
    return {'custom_hooks': [dict(type='SparsityHook'), *freeze]}


BOTH = {'all': trained(), 'BN': trained('norm')}
TRAINED = BOTH | {
    'BN + output': trained('norm', 'head.fc'),
    'output': trained('head.fc'),
    '2 random a channel': trained(per_channel=2),
}
# 1 and 0 for good
DISABLED = {
    'all but gamma and beta': {
        'model.backbone.init_cfg': [CONVOLUTIONS, dict(type='NormAffine')],
        'custom_hooks': [dict(type='SparsityHook'), dict(type='FreezeHook', freeze=['norm'])],
    }
}
# other sets of parameters
CONTROLS = TRAINED | {f'{k} random a channel': trained(per_channel=k) for k in (4, 8, 16)}
CONTROLS |= {'2 random a channel + output': trained('head.fc', per_channel=2)}
SHORTCUTS = BOTH | {
    'BN + shortcuts + output': trained('norm', 'downsample.0', 'head.fc'),
    'shortcuts + output': trained('downsample.0', 'head.fc'),
}
_INITS = {
    'uniform features': [dict(CONVOLUTIONS, distribution='uniform'), NORMS],
    'binarized features': [dict(type='RandomFilters', kind='binarized'), NORMS],
    'orthogonal features': [dict(type='RandomFilters', kind='orthogonal'), NORMS],
    'gamma 1': [CONVOLUTIONS, dict(type='NormAffine')],
    'gamma in [-1, 1]': [CONVOLUTIONS, dict(type='NormAffine', gamma=[-1, 1])],
    'gamma 1, beta 1': [CONVOLUTIONS, dict(type='NormAffine', beta=1.0)],
}
INITIALISED = BOTH | {
    f'{row}, {name}': of | {'model.backbone.init_cfg': init}
    for name, init in _INITS.items()
    for row, of in BOTH.items()
}
