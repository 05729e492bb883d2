"""Neuron collapse and psBN (arXiv 2001.11216): rounds of cosine annealing."""

from collections.abc import Callable, Sequence
from typing import Any

from ..experiment import Arm, Experiment, Options, sweep
from ..pictures import against, over_columns, over_stages, over_steps
from ..scales import BOXES, KEEP_ALL, SCALES, length
from ..tables import ArmTable, GridTable
from ._shared import FEW, NARROW, by_epoch, cut_once, width

_CONFIG = 'cifar/resnet20_bn_cifar10_in_memory.py'
_VGG = 'cifar/vgg16_psbn_cifar10_in_memory.py'
_LR, _DEPTH = 'optim_wrapper.optimizer.lr', 'model.backbone.depth'
_NORM, _ACTIVATION = 'model.backbone.norm_cfg', 'model.backbone.act_cfg'
_PSBN = dict(_delete_=True, type='psBN', alpha=0.1)
_NORMS = dict(BN={_NORM: dict(_delete_=True, type='BN')}, psBN={_NORM: _PSBN})
_HOOKS = [dict(type='RoundsHook'), dict(type='SparsityHook')]
_TINY = {_DEPTH: 8} | width(4)
# small: a fifth of the images in batches of half the size with four times the decay: a round of n
# epochs has S = 157 n steps * lr / 2 * 2e-3 / 0.1, at 0.1 and 15 epochs 2.4
# where the paper's has 9.8
_ROUND = dict(
    smoke=dict(epochs=1, batch_size=32, weight_decay=2e-3),
    small=dict(epochs=25, batch_size=64, weight_decay=2e-3, bfloat16=True),  # S = 3.9
    paper=dict(epochs=100, batch_size=128, weight_decay=5e-4),  # S = 9.8
)


def _rounds(
    scale: str, count: int = 1, *, lr: float = 0.1, tiny: Options = _TINY, **changes: Any
) -> Options:
    """Options of ``count`` rounds, and at ``smoke`` of a ``tiny`` net.

    Args:
        changes: of ``epochs`` a round, ``batch_size``, ``weight_decay`` or ``bfloat16``.
    """
    values = _ROUND[scale] | changes
    epochs, weight_decay = values.pop('epochs'), values.pop('weight_decay')
    restarts = dict(periods=[epochs] * count, restart_weights=[1] * count, eta_min=0)
    options = length(count * epochs, **values) | {
        _LR: lr,
        'optim_wrapper.optimizer.weight_decay': weight_decay,
        'param_scheduler': dict(
            _delete_=True,
            type='CosineRestartLR',
            by_epoch=True,
            convert_to_iter_based=True,
            **restarts,
        ),
        'train_cfg.val_interval': epochs,
        'custom_hooks': _HOOKS,
    }
    return options | (tiny if scale == 'smoke' else {})


_CELLS = 'FLOPs sparsity % / collapsed / dead / top-1 %'
_CELL = '{flops_sparsity:.1p} / {collapsed} / {dead} / {top1:.1f}'
_DRAWN = ('flops_sparsity', 'top1')
_BY_ROUND = dict(
    table=ArmTable(f'{_CELLS} after round', step=_CELL),
    panels=[over_steps('round', y) for y in _DRAWN],
)


def _one_round(
    name: str, option: Callable[[float], Options], **values: Sequence[float]
) -> dict[str, Any]:
    """Arms, table and panels: BN and psBN for one round, at each of the ``values`` of a scale."""
    return dict(
        arms=sweep(
            _CONFIG,
            {scale: _rounds(scale) for scale in values},
            lambda scale: {
                f'{norm}, {value:g}': option(value) | change
                for norm, change in _NORMS.items()
                for value in values[scale]
            },
        ),
        table=GridTable(f'{_CELLS} at {name}', _CELL),
        panels=[over_columns(name, y) for y in _DRAWN],
    )


EXPERIMENTS = {}

# Without a norm layer a tenth of the rate is ours. small: S = 2 rounds of 2.5, with twice the decay
# of psbn-rounds and 8 epochs
_VGG11 = {_DEPTH: 11}
EXPERIMENTS['psbn-vgg11'] = Experiment(
    shows='sections 3.4 and 3.5 and figure 1a of the psBN paper: VGG-11 with BN, without, with '
    'instance norm, and linear',
    claim='At the end of the second round the L1 norms of the filters have a peak at 0 with BN and '
    'none without; instance norm has collapsed filters too, a linear net less than 1 %.',
    arms=sweep(
        _VGG,
        dict(
            smoke=_rounds('smoke', 2, tiny=FEW) | _VGG11,
            small=_rounds('small', 2, epochs=8, weight_decay=4e-3) | _VGG11,
            paper=_rounds('paper', 2) | _VGG11,
        ),
        {
            'BN + ReLU': _NORMS['BN'],
            # without gamma SparsityHook has nothing to see
            'no norm': {_NORM: None, _LR: 0.01, 'custom_hooks': [dict(type='RoundsHook')]},
            'instance norm': {_NORM: dict(_delete_=True, type='IN', affine=True)},
            'BN, linear': _NORMS['BN'] | {_ACTIVATION: None},
        },
    ),
    table=ArmTable(
        'FLOPs sparsity % / top-1 % after round',
        {'L1 norm < 1 % of its layer, % of filters': '{l1_small:.1p}'},
        step='{flops_sparsity:.1p} / {top1:.1f}',
    ),
    panels=[over_steps('5 % of the filters, from the smallest', 'l1_quantiles')],
)
EXPERIMENTS['psbn-paths'] = Experiment(
    shows='figure 1b of the psBN paper: gamma and beta of a layer of ResNet-20 over two rounds, as '
    'percentiles over its channels; and section 4.3: beta / gamma of those that have collapsed',
    claim='Collapsed filters run from the outside to the origin; the ratio of beta and gamma keeps '
    'its value while both decay.',
    arms=sweep(_CONFIG, {scale: _rounds(scale, 2) | KEEP_ALL for scale in SCALES}, _NORMS),
    **by_epoch('norm', 'gamma_path', 'beta_path', 'ratio_path'),
)

# small: 2,000 images that are not augmented, so that so few steps can fit them (5,000 of them BN
# does not fit in a round), and half the decay; S = 32 * 90 steps * 0.05 * 1e-3 / 0.1 = 1.4 a
# round, 7.2 in all
_NOT_AUGMENTED = {
    'train_dataloader.dataset.dataset.num_samples': 2_000,
    'data_preprocessor.padding': 0,
    'data_preprocessor.flip_prob': 0.0,
}
EXPERIMENTS['psbn-random-labels'] = Experiment(
    shows='figure 2 of the psBN paper: training loss and sparsity of ResNet-20 on random labels',
    claim='Filters collapse on labels without structure too: the FLOPs sparsity grows with every '
    'round, until in the fifth the net no longer fits the data.',
    arms=sweep(
        'cifar/resnet20_psbn_cifar10_random_labels.py',
        dict(
            smoke=_rounds('smoke', 2),
            small=_rounds('small', 5, epochs=90, weight_decay=1e-3) | _NOT_AUGMENTED,
            paper=_rounds('paper', 5),
        ),
        _NORMS,
    ),
    table=ArmTable(
        'FLOPs sparsity % / dead / training loss after round',
        step='{flops_sparsity:.1p} / {dead} / {loss:.2f}',
    ),
    panels=[over_steps('round', 'loss'), over_steps('round', 'flops_sparsity')],
)

_LEAKY = {_ACTIVATION: dict(type='LeakyReLU', negative_slope=0.01, inplace=True)}
_NETS = {'BN + ReLU': {}, 'BN + Leaky ReLU': _LEAKY, 'psBN + ReLU': _NORMS['psBN']}
EXPERIMENTS['psbn-rounds'] = Experiment(
    shows='figure 3 of the psBN paper: sparsity and accuracy of ResNet-20 over warm restarts',
    claim='With BN and ReLU the FLOPs sparsity grows with every round, Leaky ReLU changes little, '
    'psBN keeps it near 0 and with it the accuracy, which BN loses.',
    arms=sweep(
        _CONFIG,
        dict(
            smoke=_rounds('smoke', 2),
            small=_rounds('small', 5, epochs=15),
            paper=_rounds('paper', 9),
        ),
        _NETS,
    ),
    **_BY_ROUND,
)


def _deep_arms(scale: str) -> list[Arm]:
    # small: S = 3 rounds of 1.3, with twice the decay of psbn-rounds, for as many images
    count = dict(smoke=2, small=3, paper=9)[scale]
    changes = dict(epochs=4, weight_decay=4e-3) if scale == 'small' else {}
    nets = {
        'ResNet-56': (_CONFIG, {_DEPTH: 56}, _TINY),
        'VGG16-BN': (_VGG, _NORMS['BN'], FEW | _VGG11),
    }
    return [
        Arm(f'{net}, {name}', config, own | _rounds(scale, count, tiny=tiny, **changes) | change)
        for net, (config, own, tiny) in nets.items()
        for name, change in _NETS.items()
        if scale != 'smoke' or 'Leaky' not in name
    ]


EXPERIMENTS['psbn-rounds-deep'] = Experiment(
    shows='figure 3 of the psBN paper, ResNet-56 and VGG16-BN: sparsity and accuracy over restarts',
    claim='As with ResNet-20: the sparsity grows with every round under BN and falls the accuracy, '
    'Leaky ReLU changes little, psBN inhibits both.',
    arms={scale: _deep_arms(scale) for scale in SCALES},
    **_BY_ROUND,
)
_SHUFFLE = {'custom_hooks': [dict(type='RoundsHook', shuffle=True), dict(type='SparsityHook')]}
EXPERIMENTS['psbn-shuffle'] = Experiment(
    shows='section 3.6 of the psBN paper: ResNet-20, its parameters shuffled between two rounds',
    claim='Trained on after each parameter tensor was shuffled the net still collapses filters, '
    'so they are not selected by the loss; its accuracy falls.',
    arms=sweep(
        _CONFIG,
        {scale: _rounds(scale, 2) for scale in SCALES},
        {'retrained': {}, 'shuffled': _SHUFFLE},
    ),
    **_BY_ROUND,
)

# The settings are in a supplement that the text lacks; ours: two rounds for every way, but for
# retraining, of which each round is shown. Ablated are the filters with the smallest L1 norms, the
# same share of each layer, or random ones, once and before the second round.
_COUNT = dict(smoke=2, small=5, paper=9)
_EPOCHS = dict(smoke=dict(epochs=2), small=dict(epochs=15), paper={})
_LRS = dict(smoke=(0.3,), small=(0.2, 0.3, 0.4), paper=(0.2, 0.4, 0.6, 0.8, 1.0))
_DECAYS = dict(smoke=(1e-3,), small=(2e-3, 8e-3), paper=(1e-4, 2e-4, 5e-4, 1e-3))  # of Adam, L2
_ITERATIONS = dict(smoke=20, small=2_355, paper=39_100)  # of a round
_SHARES = dict(smoke=(60,), small=(75, 50, 25), paper=(90, 75, 60, 45, 30, 15))  # FLOPs left, %


def _prune_arms(scale: str) -> list[Arm]:
    def arm(name: str, rounds: int, own: Options | None = None, **start: Any) -> Arm:
        return Arm(name, _CONFIG, _rounds(scale, rounds, **_EPOCHS[scale]) | (own or {}), **start)

    count, first = _COUNT[scale], 'first round, 100'
    arms = [arm(f'retrain, {count} rounds', count)]
    arms += [arm(f'larger LR, {rate}', 2, {_LR: rate}) for rate in _LRS[scale]]
    for decay in _DECAYS[scale]:
        adam = dict(_delete_=True, type='Adam', lr=1e-3, weight_decay=decay)
        arms.append(arm(f'Adam, {decay:g}', 2, {'optim_wrapper.optimizer': adam}))
    arms.append(arm(first, 1))
    for score in ('uniform', 'random'):
        for share in _SHARES[scale]:
            hooks = [*_HOOKS, cut_once(score, share / 100, _ITERATIONS[scale])]
            start = dict(pretrained=first, whole=True)
            arms.append(arm(f'{score} ablation, {share}', 1, {'custom_hooks': hooks}, **start))
    return arms


EXPERIMENTS['psbn-prune'] = Experiment(
    shows='figure 4 of the psBN paper: ResNet-20 pruned by collapse and by uniform ablation of the '
    'filters with the smallest L1 norms, or of random ones',
    claim='No way of collapse, by retraining, larger learning rates or Adam, is better than the '
    'naive uniform ablation of filters: to prune the collapsed ones is not better than to prune '
    'random ones.',
    arms={scale: _prune_arms(scale) for scale in SCALES},
    table=ArmTable(
        'way, setting',
        {'FLOPs left, %': '{flops_left:.1p}', 'collapsed': '{collapsed}', 'top-1, %': '{top1:.1f}'},
    ),
    panels=[against('flops_left', 'top1')],
)
# small: S = 3.9 at 0.1 and 39 at 1.0, the paper's 9.8 and 98
EXPERIMENTS['psbn-lr'] = Experiment(
    shows='figure 5a of the psBN paper: sparsity of ResNet-20 against the learning rate',
    claim='The larger the learning rate, the more filters collapse under BN.',
    **_one_round(
        'learning rate',
        lambda lr: {_LR: lr},
        smoke=(0.1, 1.0),
        small=(0.1, 0.3, 1.0),
        paper=(0.1, 0.2, 0.4, 0.6, 0.8, 1.0),
    ),
)
# Which values figure 5b has cannot be read from the text. small: S = 3.9 takes a gamma of 1, 0.2
# and 0.04 to 0.02, 4e-3 and 8e-4: only from the last a filter that dies early can be counted as
# collapsed.
_CONVOLUTIONS = dict(type='Kaiming', layer='Conv2d', mode='fan_out', nonlinearity='relu')
EXPERIMENTS['psbn-gamma-init'] = Experiment(
    shows='figure 5b of the psBN paper: sparsity of ResNet-20 against the initial gamma',
    claim='The smaller gamma begins, the more filters die and collapse under BN in one round.',
    **_one_round(
        'initial gamma',
        lambda gamma: {
            'model.backbone.init_cfg': [_CONVOLUTIONS, dict(type='NormAffine', gamma=gamma)]
        },
        smoke=(1.0, 0.1),
        small=(1.0, 0.2, 0.04),
        paper=(1.0, 0.5, 0.2, 0.1, 0.05, 0.02),
    ),
)

_ENSEMBLE = {'custom_hooks': [*_HOOKS, dict(type='SnapshotEnsembleHook', num_snapshots=3)]}
EXPERIMENTS['psbn-snapshot'] = Experiment(
    shows='table 1 of the psBN paper: snapshot ensembles of ResNet-110, BN and psBN',
    claim='At LR 0.2 the ensemble of the last 3 of 5 snapshots has 94.86 % with psBN and 94.63 % '
    'with BN, the last net a FLOPs sparsity of 5.3 % and 31.6 %.',
    # small: ResNet-20 for ResNet-110, S = 10 * 157 steps * 0.1 * 2e-3 / 0.1 = 3.1 a round at 0.2
    # where the paper's 40 epochs have 7.8
    arms=sweep(
        _CONFIG,
        dict(
            smoke=_rounds('smoke', 3) | _ENSEMBLE,
            small=_rounds('small', 5, epochs=10) | _ENSEMBLE,
            paper=_rounds('paper', 5, epochs=40) | _ENSEMBLE | {_DEPTH: 110},
        ),
        lambda scale: {
            f'{norm}, {lr}': change | {_LR: lr}
            for lr in ((0.2,) if scale == 'smoke' else (0.2, 0.1))
            for norm, change in _NORMS.items()
        },
    ),
    table=ArmTable(
        'norm, LR: top-1 % / FLOPs sparsity % after round',
        step='{top1:.2f} / {flops_sparsity:.1p}',
        columns={'ensemble': '{ensemble:.2f}'},
    ),
    panels=[over_steps('round', 'flops_sparsity'), over_steps('round', 'top1')],
)


# The paper finetunes on COCO only. Here: five classes of CIFAR-10, then all ten with a new head,
# so that the task changes and the pictures do not, at the full learning rate again and, for
# comparison, at a tenth. small: S = 3.8, then 5.0 (0.5 at a tenth); paper: its rounds on CIFAR-10
_STAGES = dict(smoke=(1, 1), small=(24, 32), paper=(100, 100))  # epochs
_FIVE = {'model.head.num_classes': 5} | {
    f'{split}_dataloader.dataset.num_classes': 5 for split in ('train', 'val', 'test')
}
_PAIRS = (('BN', 'BN', 0.1), ('BN', 'BN', 0.01), ('BN', 'psBN', 0.1), ('psBN', 'psBN', 0.1))


def _finetune_arms(scale: str) -> list[Arm]:
    first, second = _STAGES[scale]
    five = _rounds(scale, epochs=first) | _FIVE
    arms = [Arm(f'{norm} on five', _CONFIG, five | change) for norm, change in _NORMS.items()]
    for before, after, lr in _PAIRS:
        name, start = f'{before} on five -> {after}, {lr}', f'{before} on five'
        options = _rounds(scale, epochs=second, lr=lr) | _NORMS[after]
        arms.append(Arm(name, _CONFIG, options, pretrained=start))
    return arms


EXPERIMENTS['psbn-finetune'] = Experiment(
    shows='section 5.3 of the psBN paper on CIFAR-10: pretrained on five classes, finetuned on ten',
    claim='The sudden rise of the learning rate when a net is finetuned collapses filters under '
    'BN, and psBN avoids it.',
    arms={scale: _finetune_arms(scale) for scale in SCALES},
    table=ArmTable(
        'pretrained -> finetuned, LR',
        {
            'FLOPs sparsity, %': '{flops_sparsity:.1p}',
            'collapsed': '{collapsed} of {channels}',
            'dead': '{dead} of {prunable}',
            'top-1, %': '{top1:.1f}',
        },
    ),
    panels=[over_stages('flops_sparsity'), over_stages('dead_share')],
)


def _detector_rounds(scale: str, count: int, *, epochs: int, batch_size: int = 8) -> Options:
    settings = dict(epochs=epochs, batch_size=batch_size, weight_decay=1e-2, bfloat16=False)
    return _rounds(scale, count, lr=0.04, tiny=NARROW, **settings)


EXPERIMENTS['psbn-detector'] = Experiment(
    shows='section 5.3 of the psBN paper on a detector: RetinaNet with BN and psBN over warm '
    'restarts, on digits',
    claim='Filters of a detector collapse under BN where decay and length allow it, psBN keeps '
    'them; the paper has mAP with psBN above BN after training on COCO.',
    # small: 300 iterations an epoch, so S = 900 * 0.02 * 1e-2 / 0.1 = 1.8 a round
    arms=sweep(
        'quickstart/retinanet_r18_bn_rounds_digits.py',
        dict(
            smoke=_detector_rounds('smoke', 2, epochs=1, batch_size=4),
            small=_detector_rounds('small', 3, epochs=3),
            paper=_detector_rounds('paper', 5, epochs=6),
        ),
        {
            'BN': {},
            'psBN': {f'model.{of}.norm_cfg': _PSBN for of in ('backbone', 'neck', 'bbox_head')},
        },
    ),
    table=ArmTable(
        'FLOPs sparsity % / collapsed / dead / mAP after round',
        step='{flops_sparsity:.1p} / {collapsed} / {dead} / {map:.3f}',
    ),
    panels=[over_steps('round', 'collapsed'), over_steps('round', 'map')],
    data=BOXES,
)
