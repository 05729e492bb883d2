"""Training BatchNorm and only BatchNorm (Frankle et al., ICLR 2021)."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..experiment import Arm, Experiment, Options, sweep
from ..pictures import against, over_columns, over_steps
from ..scales import length
from ..tables import ArmTable, GridTable
from ._shared import FEW, width

_CONFIG = 'cifar/resnet14_bn_cifar10_in_memory.py'
_CONVOLUTIONS = dict(type='Kaiming', layer='Conv2d', mode='fan_in', nonlinearity='relu')
_NORMS = dict(type='Uniform', layer='_BatchNorm', a=0.0, b=1.0, bias=0)


def _training(epochs: int, batch_size: int, weight_decay: float, bfloat16: bool = False) -> Options:
    """The rate is divided by 10 after a half and after three quarters."""
    return length(epochs, batch_size=batch_size, bfloat16=bfloat16) | {
        'optim_wrapper.optimizer.weight_decay': weight_decay,
        'param_scheduler.milestones': [epochs // 2, epochs * 3 // 4],
    }


# small: S = 10 epochs * 157 steps * 0.1 * 2e-3 / 0.1 = 3.1 at the full rate, as the paper's 80
# epochs have with a decay of 1e-4; from 0.3 to 0.01 takes 3.4. Half of the test images, for each
# net is evaluated five times
_HALF = {f'{split}_dataloader.dataset.num_samples': 5_000 for split in ('val', 'test')}
_TRAININGS = dict(
    smoke=_training(1, 32, 2e-3) | width(4),
    small=_training(20, 64, 2e-3, bfloat16=True) | _HALF,
    paper=_training(160, 128, 1e-4),
)


def _trained(*parts: str, **settings: Any) -> Options:
    """Only these parts, see ``FreezeHook``; all without any."""
    freeze = [dict(type='FreezeHook', train=list(parts), **settings)] if parts or settings else []
    return {'custom_hooks': [dict(type='SparsityHook'), *freeze]}


_BOTH = {'all': _trained(), 'BN': _trained('norm')}
_TRAINED = _BOTH | {
    'BN + output': _trained('norm', 'head.fc'),
    'output': _trained('head.fc'),
    '2 random a channel': _trained(per_channel=2),
}
# 1 and 0 for good
_DISABLED = {
    'all but gamma and beta': {
        'model.backbone.init_cfg': [_CONVOLUTIONS, dict(type='NormAffine')],
        'custom_hooks': [dict(type='SparsityHook'), dict(type='FreezeHook', freeze=['norm'])],
    }
}


@dataclass(frozen=True)
class _Family:
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
    config: str = _CONFIG
    trainings: Mapping[str, Options] = field(default_factory=lambda: _TRAININGS)

    def arms(self, rows: Mapping[str, Options], **shown: Collection[str]) -> dict[str, list[Arm]]:
        """Arms ``'row, size'``; ``shown``: at a scale, which of the rows."""
        return sweep(
            self.config,
            self.trainings,
            lambda scale: {
                f'{row}, {n}': self.net(n) | rows[row]
                for n in self.sizes[scale]
                for row in shown.get(scale, rows)
            },
        )

    @property
    def top1(self) -> dict[str, Any]:
        """Table and panel."""
        table = GridTable(f'top-1 % at {self.size}', '{top1:.1f}')
        return dict(table=table, panels=[over_columns(self.size, 'top1')])

    @property
    def small_gammas(self) -> dict[str, Any]:
        """Table and panels of figures 2, 5, 6 and 7."""
        return dict(
            table=GridTable(
                'top-1 % / |gamma| < 0.01, 0.05, 0.1 % / change of top-1 with these at 0 / '
                f'ReLUs off %, at {self.size}',
                '{top1:.1f} / {small_gammas:.0p} / {change_clamped:+.1f} / {relus_off:.0p}',
            ),
            panels=[
                over_columns(self.size, y) for y in ('top1', 'small_gammas[0.01]', 'relus_off')
            ],
        )


def _depth(layers: int) -> Options:
    return {'model.backbone.depth': layers}


def _vgg(layers: int) -> Options:
    net = dict(type='VGG', norm_cfg=dict(type='BN'), with_last_pool=False)
    net |= dict(depth=layers, init_cfg=[_CONVOLUTIONS, _NORMS])
    return {'model.backbone': dict(net, _delete_=True), 'model.head.in_channels': 512}


_DEEP = _Family(
    'depth', dict(smoke=(8,), small=(32, 14), paper=(866, 434, 218, 110, 56, 32, 14)), _depth
)
_WIDE = _Family(
    'width',
    dict(smoke=(0.25,), small=(2, 1, 0.5), paper=(32, 16, 8, 4, 2, 1)),
    lambda factor: width(int(16 * factor)),
    'cifar/wrn14x4_bn_cifar10_in_memory.py',
)
_VGG = _Family(
    'depth',
    dict(smoke=(11,), small=(11,), paper=(19, 16, 13, 11)),
    _vgg,
    trainings=_TRAININGS | dict(smoke=_TRAININGS['smoke'] | FEW),
)

EXPERIMENTS = {}

EXPERIMENTS['bn-only'] = Experiment(
    shows='figures 2, 5, 6 and 7 of the BN-only paper: accuracy and small gammas against depth',
    claim='BN alone trained, deeper nets get better (48 % at depth 14, 70 % at 110, 82 % at 866) '
    'and a quarter to a third of the gammas end below 0.01, which can be set to 0 at no loss; 28 % '
    'to 39 % of the ReLUs are off. With all trained 5 % of gammas do.',
    arms=replace(_DEEP, sizes=_DEEP.sizes | dict(smoke=(14, 8), small=(56, 32, 14))).arms(
        _TRAINED, smoke=_BOTH, small=_BOTH
    ),
    **_DEEP.small_gammas,
)
EXPERIMENTS['bn-only-wide'] = Experiment(
    shows='the WRN half of figures 1, 2, 5, 6 and 7 of the BN-only paper: WRN-14-k against width',
    claim='BN alone trained, wider nets get better (73 % for WRN-14-32), less so than deeper ones '
    'with as many parameters.',
    arms=_WIDE.arms(_TRAINED | _DISABLED, smoke=_BOTH, small=_BOTH),
    **_WIDE.small_gammas,
)
EXPERIMENTS['bn-only-vgg'] = Experiment(
    shows='appendix C of the BN-only paper, figures 8 and 9: VGG nets, and shares of small gammas',
    claim='With all parameters trained accuracy does not differ with gamma and beta disabled; BN '
    'alone is well above chance, and above two random weights a channel.',
    arms=_VGG.arms(_TRAINED | _DISABLED, smoke=('BN',), small=('all', 'BN', 'output')),
    table=GridTable(
        'top-1 % / |gamma| < 0.01, 0.05, 0.1 % at depth', '{top1:.1f} / {small_gammas:.0p}'
    ),
    panels=[over_columns('depth', 'top1')],
)
EXPERIMENTS['bn-only-disabled'] = Experiment(
    shows='figure 1 of the BN-only paper: all parameters trained, with gamma and beta and without',
    claim='Training with gamma and beta is 0.5 to 2 points more accurate than with them disabled.',
    arms=_DEEP.arms({'all': _trained()} | _DISABLED),
    **_DEEP.top1,
)

# other sets of parameters
_CONTROLS = _TRAINED | {f'{k} random a channel': _trained(per_channel=k) for k in (4, 8, 16)}
_CONTROLS |= {'2 random a channel + output': _trained('head.fc', per_channel=2)}
EXPERIMENTS['bn-only-controls'] = Experiment(
    shows='the controls of figure 2 of the BN-only paper, and figures 13 and 14, deep nets: other '
    'sets of parameters trained',
    claim='Two random weights a channel, as many as gamma and beta, reach far less than BN; it '
    'takes 8 for the shallower nets and 16 for the deeper ones. BN + output is a little better '
    'than BN, two random weights + output match it at best.',
    arms=_DEEP.arms(_CONTROLS, smoke=('BN + output', 'output', '2 random a channel')),
    **_DEEP.top1,
)
_SHORTCUTS = _BOTH | {
    'BN + shortcuts + output': _trained('norm', 'downsample.0', 'head.fc'),
    'shortcuts + output': _trained('downsample.0', 'head.fc'),
}
EXPERIMENTS['bn-only-shortcuts'] = Experiment(
    shows='figure 12 of the BN-only paper, deep nets: shortcuts and output layer trained too',
    claim='BN + shortcuts + output improves ResNet-14 from 48 % to 63 % and ResNet-110 by five '
    'points, ResNet-866 not at all; shortcuts + output alone have 49 % at depth 14.',
    arms=_DEEP.arms(_SHORTCUTS, smoke=('BN + shortcuts + output', 'shortcuts + output')),
    **_DEEP.top1,
)
_INITS = {
    'uniform features': [dict(_CONVOLUTIONS, distribution='uniform'), _NORMS],
    'binarized features': [dict(type='RandomFilters', kind='binarized'), _NORMS],
    'orthogonal features': [dict(type='RandomFilters', kind='orthogonal'), _NORMS],
    'gamma 1': [_CONVOLUTIONS, dict(type='NormAffine')],
    'gamma in [-1, 1]': [_CONVOLUTIONS, dict(type='NormAffine', gamma=[-1, 1])],
    'gamma 1, beta 1': [_CONVOLUTIONS, dict(type='NormAffine', beta=1.0)],
}
_INITIALISED = _BOTH | {
    f'{row}, {name}': trained | {'model.backbone.init_cfg': init}
    for name, init in _INITS.items()
    for row, trained in _BOTH.items()
}
EXPERIMENTS['bn-only-init'] = Experiment(
    shows='appendix E of the BN-only paper, figure 11, deep nets: other initialisations of '
    'features, gamma and beta',
    claim='Features from other distributions change nothing, nor do gamma 1 and gamma in [-1, 1]; '
    'beta 1 adds 1 to 3 points where BN alone is trained, and none or less where all are.',
    arms=_DEEP.arms(
        _INITIALISED,
        smoke=('BN, binarized features', 'all, orthogonal features', 'BN, gamma in [-1, 1]'),
    ),
    **_DEEP.top1,
)
_SHOWN = ('BN', 'BN + output', '2 random a channel', 'BN, gamma 1, beta 1', 'shortcuts + output')
EXPERIMENTS['bn-only-wide-controls'] = Experiment(
    shows='the WRN half of figures 11 to 14 of the BN-only paper: WRN-14-k, other initialisations '
    'and other sets of parameters trained',
    claim='Beta 1 adds up to 3 points where BN alone is trained (75 % for WRN-14-32) and takes 3.5 '
    'there where all are; BN + shortcuts + output has 87 % there, BN 73 %.',
    arms=_WIDE.arms(
        _CONTROLS | _INITIALISED | _SHORTCUTS,
        smoke=('BN, gamma 1, beta 1', '4 random a channel', 'shortcuts + output'),
        small=_SHOWN,
    ),
    **_WIDE.top1,
)

# (depth, channels); of the small nets all is trained. The paper's grid is not said: ours
_DEEPER = dict(smoke=((8, 4),), small=((32, 16), (14, 16)))
_DEEPER |= dict(paper=tuple((n, 16) for n in _DEEP.sizes['paper']))
_WIDER = dict(smoke=(), small=((14, 32),), paper=tuple((14, 16 * k) for k in (32, 16, 8, 4, 2)))
_SMALL = dict(smoke=((8, 2),), small=((14, 2), (8, 2)))
_SMALL |= dict(paper=tuple((n, c) for c in (2, 4, 8) for n in (56, 32, 14, 8)))
_NETS = dict(deeper=(_DEEPER, 'BN'), wider=(_WIDER, 'BN'), small=(_SMALL, 'all'))
EXPERIMENTS['bn-only-parameters'] = Experiment(
    shows='figures 3 and 10 of the BN-only paper: accuracy against the number of trained '
    'parameters, BN in deeper and in wider nets, and all of small nets',
    claim='With as many parameters of BN deeper nets are better than wider ones; small nets '
    'trained whole are better than both, at best by 5 to 10 points.',
    arms=sweep(
        _CONFIG,
        _TRAININGS,
        lambda scale: {
            f'{row}, {n}-{channels}': _depth(n) | width(channels) | _TRAINED[trained]
            for row, (nets, trained) in _NETS.items()
            for n, channels in nets[scale]
        },
    ),
    table=ArmTable(
        'nets, depth-channels',
        {'trained parameters': '{trained_parameters}', 'top-1, %': '{top1:.1f}'},
    ),
    panels=[against('trained_parameters', 'top1')],
)

_DISTRIBUTIONS = dict(
    table=ArmTable(
        'trained, net', {'gamma < 0, %': '{negative_gammas:.0p}', 'ReLUs off, %': '{relus_off:.0p}'}
    ),
    panels=[
        over_steps('5 % of the channels, from the smallest', f'{of}_quantiles')
        for of in ('gamma', 'beta', 'zero')
    ],
)
EXPERIMENTS['bn-only-distributions'] = Experiment(
    shows='figures 4, 15, 16 and 23 of the BN-only paper, deep nets: gamma, beta and Pr[a = 0]',
    claim='Trained alone gamma has a peak at 0; many activations are always off or always on, '
    'where with all trained many are on some of the time (10 % to 70 %).',
    arms=_DEEP.arms(_BOTH),
    **_DISTRIBUTIONS,
)
EXPERIMENTS['bn-only-wide-distributions'] = Experiment(
    shows='figures 17, 18 and 24 of the BN-only paper, WRN-14-k: gamma, beta and Pr[a = 0]',
    claim='As in deep nets: trained alone gamma has a peak at 0, and many activations are always '
    'off or always on.',
    arms=_WIDE.arms(_BOTH),
    **_DISTRIBUTIONS,
)
EXPERIMENTS['bn-only-vgg-distributions'] = Experiment(
    shows='figures 21 and 22 of the BN-only paper, VGG nets: gamma and beta',
    claim='Trained alone nearly half of the gammas are below 0.01, of all trained 2 % to 3 %.',
    arms=_VGG.arms(_BOTH),
    **_DISTRIBUTIONS,
)
