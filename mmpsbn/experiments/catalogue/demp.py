"""Maximizing dead neurons, DemP (arXiv 2403.07688): ResNet-18 on CIFAR-10, pruned while trained."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..experiment import Arm, Experiment, Options
from ..pictures import against
from ..scales import SCALES, length
from ..tables import ArmTable


def net_of(channels: int) -> Options:
    """By the channels of the first stage."""
    return {
        'model.backbone.base_channels': channels,
        'model.backbone.stem_channels': channels,
        'model.head.in_channels': 8 * channels,
    }


def _training(channels: int, epochs: int, batch_size: int, bfloat16: bool = False) -> Options:
    whole = length(epochs, batch_size=batch_size, bfloat16=bfloat16) | net_of(channels)
    return whole | {'param_scheduler.step_size': max(1, round(77 / 250 * epochs))}


# small: a quarter of the width and 4,710 steps where the paper has 97,750; an event every 5 % of
# them as there. With SGDM gamma goes from 1 to 0 in 1,000 steps at full rate and a penalty of 1e-3,
# of which there are 1,413; S of these is 2.8 with four times the decay, 15 in the paper. The
# noise is that of the authors' code, and so is less in sum over a twentieth of the steps.
TRAININGS = dict(
    smoke=_training(8, 1, 64),
    small=_training(16, 30, 64, bfloat16=True),
    paper=_training(64, 250, 128),
)
_PRUNE_INTERVAL = dict(smoke=2, small=235, paper=5000)
_SGDM_DECAY = dict(smoke=5e-4, small=2e-3, paper=5e-4)
# of figures 1 and 15; which slope 15 has is not said
ACTIVATIONS = {
    'ReLU': dict(type='ReLU', inplace=True),
    'Leaky ReLU': dict(type='LeakyReLU', negative_slope=0.05, inplace=True),
    'Swish': dict(type='SiLU', inplace=True),
}


def activation(kind: str) -> Options:
    return {
        'custom_imports': dict(imports=['mmpsbn', 'mmpsbn.models.activation_resnet']),
        'model.backbone.type': 'ActivationResNetCIFAR',
        'model.backbone.act_cfg': ACTIVATIONS[kind],
    }


def demp(scale: str, *, prune: Options | None = None, **arguments: Any) -> list[dict]:
    """DemPHook with these arguments, as hooks of an arm."""
    settings = dict(interval=_PRUNE_INTERVAL[scale]) | (prune or {})
    return [dict(type='DemPHook', prune=settings, **arguments)]


def with_each_optimizer(
    scale: str,
    arms: Mapping[str, Sequence[dict]],
    watch: Sequence[dict] = (dict(type='SparsityHook'),),
    **common: Any,
) -> list[Arm]:
    """Arms with Adam and SGDM, at ``smoke`` with SGDM alone, from name -> hooks; all have the hooks
    of ``watch`` too, and ``common`` are further options."""
    decay = {'optim_wrapper.optimizer.weight_decay': _SGDM_DECAY[scale]}
    optimizers = {'SGDM': decay} if scale == 'smoke' else {'Adam': {}, 'SGDM': decay}
    return [
        Arm(
            f'{optimizer}, {name}',
            f'demp_cls/resnet18_{optimizer.lower()}_cifar10.py',
            TRAININGS[scale] | common | change | {'custom_hooks': [*watch, *hooks]},
        )
        for optimizer, change in optimizers.items()
        for name, hooks in arms.items()
    ]


EXPERIMENTS = {}
_PEAKS = dict(smoke=(1e-3,), small=(3e-4, 1e-3), paper=(5e-4, 1e-3, 2e-3, 4e-3))


def _tradeoff_arms(scale: str) -> dict[str, list[dict]]:
    peaks = (1e-4, 3e-4, 1e-3) if scale == 'small' else _PEAKS[scale]
    return {'dense': []} | {f'{peak:g}': demp(scale, penalty=dict(peak=peak)) for peak in peaks}


EXPERIMENTS['demp-tradeoff'] = Experiment(
    shows='figure 3 of the DemP paper: accuracy of ResNet-18 against weight sparsity, and training '
    'time',
    claim='The stronger the penalty, the sparser the net; four fifths of the weights go at little '
    'accuracy, and the whole training of the sparsest that keeps it is 2.45 times as fast as '
    "dense (here: the last net's step).",
    arms={scale: with_each_optimizer(scale, _tradeoff_arms(scale)) for scale in SCALES},
    table=ArmTable(
        'optimizer, peak of the penalty',
        {
            'top-1, %': '{top1:.1f}',
            'weights removed, %': '{removed[weights]:.1p}',
            'channels, %': '{removed[channels]:.1p}',
            'FLOPs, %': '{removed[macs]:.1p}',
            'training, s': '{train_seconds:.0f}',
            'last step, faster than dense': '{speedup:.2f}x',
        },
    ),
    panels=[against('removed[weights]', y) for y in ('top1', 'speedup')],
)

PENALTIES = {  # besides DemP's Lasso on gamma
    'L2 on gamma': dict(kind='l2'),
    'L2 on all': dict(kind='l2', scope='all'),
    'Lasso on all': dict(scope='all'),
}
_ABLATIONS = {
    'as DemP': {},
    # figure 4: schedules
    'schedule constant': dict(schedule=dict(type='constant')),
    'schedule warmup': dict(schedule=dict(type='warmup')),
    'schedule cosine': dict(schedule=dict(type='cosine')),
    # figure 5: penalties
    **{name: dict(penalty=of) for name, of in PENALTIES.items()},
    # figure 6: noise
    'no noise': dict(noise=dict(peak_std=0.0)),
    'noise 1e-4': dict(noise=dict(peak_std=1e-4)),
    'noise 5e-4': dict(noise=dict(peak_std=5e-4)),
    'noise 1e-3': dict(noise=dict(peak_std=1e-3)),
    'symmetric noise': dict(noise=dict(asymmetric=False)),
}
_SHOWN = dict(
    smoke=('schedule constant', 'L2 on all'),
    small=('as DemP', 'schedule constant', 'L2 on gamma', 'no noise'),
    paper=tuple(_ABLATIONS),
)
# figure 13: noise without a penalty; its values are in the picture alone: those of figure 6
_NOISE_ALONE = dict(smoke=(5e-4,), small=(5e-5, 5e-4), paper=(5e-5, 1e-4, 5e-4, 1e-3))


def _ablation_arms(scale: str) -> dict[str, list[dict]]:
    arms = {}
    for name, asymmetric in {'noise': True, 'symmetric noise': False}.items():
        for std in _NOISE_ALONE[scale]:
            noise = dict(peak_std=std, asymmetric=asymmetric)
            arms[f'{name} alone, {std:g}'] = demp(scale, penalty=dict(peak=0.0), noise=noise)
    for name in _SHOWN[scale]:
        for peak in (1e-3,) if scale == 'small' else _PEAKS[scale]:
            penalty = dict(peak=peak) | _ABLATIONS[name].get('penalty', {})
            arms[f'{name}, {peak:g}'] = demp(scale, **_ABLATIONS[name] | dict(penalty=penalty))
    return arms


EXPERIMENTS['demp-ablations'] = Experiment(
    shows='figures 4, 5, 6 and 13 of the DemP paper: schedules, penalties and noise',
    claim='One-cycle is a good default among the schedules; with SGDM Lasso on gamma is the best '
    'penalty, with Adam L2 on gamma slightly better; a little noise adds sparsity, more costs '
    'accuracy; noise alone sparsifies too, at a worse tradeoff, and there that it is asymmetric '
    'makes no difference.',
    arms={scale: with_each_optimizer(scale, _ablation_arms(scale)) for scale in SCALES},
    table=ArmTable(
        'optimizer, what differs, peak of the penalty or of noise alone',
        {
            'top-1, %': '{top1:.1f}',
            'weights removed, %': '{removed[weights]:.1p}',
            'channels, %': '{removed[channels]:.1p}',
        },
    ),
    panels=[against('removed[weights]', 'top1')],
)


def _dynamic_arms(scale: str) -> dict[str, list[dict]]:
    last = dict(smoke=0.7, small=0.99, paper=0.97)[scale]  # of the training: one event is left
    ways = {'during training': {}, 'at the end': dict(begin=last)}
    return {
        f'{name}, {peak:g}': demp(scale, prune=prune, penalty=dict(peak=peak))
        for name, prune in ways.items()
        for peak in _PEAKS[scale]
    }


EXPERIMENTS['demp-dynamic'] = Experiment(
    shows='figure 7 of the DemP paper: pruning during training or at its end',
    claim='With Adam pruning during training does not affect performance, with SGDM it further '
    'improves sparsity.',
    arms={scale: with_each_optimizer(scale, _dynamic_arms(scale)) for scale in SCALES},
    table=ArmTable(
        'optimizer, pruned, peak of the penalty',
        {
            'top-1, %': '{top1:.1f}',
            'weights removed, %': '{removed[weights]:.1p}',
            'training FLOPs': '{training_flops:.2f}x',
        },
    ),
    panels=[against('removed[weights]', 'top1')],
)

_STRUCTURED = {
    'SNAP': dict(score='snap', timing='start'),
    'CroPit-S': dict(score='cropit', timing='start'),
    'EarlySNAP': dict(score='snap', timing='early'),
    'EarlyCroP-S': dict(score='cropit', timing='early'),
}
_ANY_WIDTH = dict(round_to=1)
_UNSTRUCTURED = {
    'magnitude': {},
    'saliency': {},
    'set': {},
    'rigl': dict(distribution='erk'),  # as table 2 says, and of no other
}
_LEFT = dict(smoke=(0.5,), small=(0.4, 0.2), paper=(0.4, 0.2, 0.1, 0.05))  # of the weights
# Of the masks, small has none: a masked net trains as long as the dense one.
_LEFT_OF_MASKS = _LEFT | dict(small=())
# with a gamma of 0 behind each branch the loss tells nothing of a channel in it at the start
_GAMMAS_AT_ONE = {'model.backbone.zero_init_residual': False}


def _structured_arms(scale: str, **prune: str) -> dict[str, list[dict]]:
    """The dense net, DemP with these settings of ``prune``, and the structured baselines; at
    ``smoke`` DemP and what prunes at the start, for one epoch has no early one."""
    arms = {'dense, 1': []}
    for peak in _PEAKS[scale]:
        arms[f'DemP, {peak:g}'] = demp(scale, prune=prune, penalty=dict(peak=peak))
    for left in _LEFT[scale]:
        for name, budget in _STRUCTURED.items():
            hook = dict(type='DemPHook', budget=dict(budget, params=left), prune=_ANY_WIDTH)
            arms[f'{name}, {left}'] = [hook]
    few = ('DemP', 'SNAP', 'CroPit-S')
    return {n: of for n, of in arms.items() if scale != 'smoke' or n.split(',')[0] in few}


def _unstructured_arms(scale: str) -> dict[str, list[dict]]:
    # at smoke there are five iterations
    often = dict(updates=dict(interval=1)) if scale == 'smoke' else {}
    return {
        f'{method}, {left}': [
            dict(type='SparseWeightsHook', method=method, sparsity=1 - left, **settings, **often)
        ]
        for left in _LEFT_OF_MASKS[scale]
        for method, settings in _UNSTRUCTURED.items()
    }


_BASELINES = dict(
    table=ArmTable(
        'optimizer, method, peak or weights left',
        {
            'top-1, %': '{top1:.1f}',
            'weights that are 0, %': '{weight_sparsity:.1p}',
            'training FLOPs': '{training_flops:.2f}x',
            'inference FLOPs': '{inference_flops:.2f}x',
            'training, s': '{train_seconds:.0f}',
        },
    ),
    panels=[against('weight_sparsity', y) for y in ('top1', 'training_flops')],
)
EXPERIMENTS['demp-baselines'] = Experiment(
    shows='figures 3 and 16 of the DemP paper and the columns of its tables 1 and 2, on ResNet-18: '
    'DemP beside structured and, but for small, unstructured baselines',
    claim='With Adam DemP finds sparser nets of better accuracy than the structured baselines, and '
    'is more effective than the unstructured ones; with SGDM all are alike.',
    arms={
        scale: with_each_optimizer(
            scale, _structured_arms(scale) | _unstructured_arms(scale), **_GAMMAS_AT_ONE
        )
        for scale in SCALES
    },
    **_BASELINES,
)
EXPERIMENTS['demp-leaky'] = Experiment(
    shows='figure 15 of the DemP paper: ResNet-18 with Leaky ReLU, DemP, which removes what is '
    'never positive, beside the structured baselines',
    claim='With Adam DemP outperforms the structured baselines with Leaky ReLU too, with SGDM it '
    'is like them.',
    arms={
        scale: with_each_optimizer(
            scale,
            _structured_arms(scale, criterion='never_positive'),
            **_GAMMAS_AT_ONE,
            **activation('Leaky ReLU'),
        )
        for scale in SCALES
    },
    **_BASELINES,
)
