"""What is measured on a trained arm, by name: the columns and the axes of the experiments.

A measure is read only where a table or a picture asks for it. One of rounds or layers is a list;
those that a training in rounds and one without have in common are lists of the first alone.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..functional.statistics import COLLAPSED_GAMMA, collapsed_mask, filter_l1_norms
from ..functional.training_flops import training_flops_left
from ..models.trained_parts import TrainedParts
from ..pruning.census import LayerChannels, take_census
from ..pruning.measures import ChannelCounts, Limits, count_channels, mean_universality
from ..pruning.sparsity import scales_clamped
from .trained import TrainedArm

_LIMITS = Limits(gamma=COLLAPSED_GAMMA, eps=1e-12)  # Mehta et al. section 2.1
_SMALL = (0.01, 0.05, 0.1)  # Frankle et al. section 5


@dataclass(frozen=True)
class Measure:
    """A number, or several, of a trained arm.

    Attributes:
        label: of its axis, with the unit; ``{}`` in it is the key of one of several.
        read: numbers, None, and lists and mappings of them by strings.
        share: in [0, 1], drawn in percent.
    """

    label: str
    read: Callable[[TrainedArm], Any]
    share: bool = False


def label_of(field: str) -> tuple[str, float]:
    """What the axis of a number says, and what it is drawn multiplied by."""
    name, key = re.fullmatch(r'(\w+)(?:\[(.+)\])?', field).groups()
    measure = MEASURES[name]
    return measure.label.format(key), 100 if measure.share else 1


def _by_round(key: str) -> Callable[[TrainedArm], list]:
    return lambda arm: [row.get(key) for row in arm.rounds]


def _top1(arm: TrainedArm) -> list[float] | float:
    return [row['metrics']['accuracy/top1'] for row in arm.rounds] or arm.top1


def _map(arm: TrainedArm) -> list[float] | float:
    return [row['metrics'].get('coco/bbox_mAP', 0.0) for row in arm.rounds] or arm.box_map()


def _dead_share(arm: TrainedArm) -> list[float | None]:
    return [None if r.get('dead') is None else r['dead'] / r['prunable'] for r in arm.rounds]


def _backbone(census: Mapping[str, LayerChannels]) -> dict[str, LayerChannels]:
    return {n: layer for n, layer in census.items() if n.startswith('backbone.')}


def _inactive(arm: TrainedArm) -> ChannelCounts:
    return count_channels(_backbone(arm.census), 'dead', _LIMITS)


def _removed(arm: TrainedArm) -> ChannelCounts:
    """Filters that have collapsed or are pruned, of those of the net as it began; the pruned ones
    come last in each layer."""
    masks = count_channels(_backbone(take_census(arm.model)), 'collapsed', _LIMITS).masks
    for name, collapsed in masks.items():
        pruned = collapsed.new_ones(arm.dense_channels(name) - len(collapsed))
        masks[name] = torch.cat([collapsed, pruned])
    return ChannelCounts(masks)


def _by_layer(counts: ChannelCounts) -> list[float]:
    return [found / size for found, size in counts.by_layer.values()]


def _kernels(model: nn.Module) -> list[Tensor]:
    return [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]


def _weights_removed(arm: TrainedArm) -> float:
    nets = arm.without_collapsed, arm.dense()
    left, dense = (sum(kernel.numel() for kernel in _kernels(net)) for net in nets)
    return 1 - left / dense


def _small_gammas(arm: TrainedArm) -> Mapping[str, float]:
    gammas = _scales(arm, 'gamma').abs()
    return {str(at): _share(gammas < at) for at in _SMALL}


def _change_clamped(arm: TrainedArm) -> Mapping[str, float]:
    before, changes = arm.top1, {}
    for at in _SMALL:
        with scales_clamped(arm.model, threshold=at):
            changes[str(at)] = arm.accuracy() - before
    return changes


def _share(mask: Tensor) -> float:
    return float(mask.double().mean())


def _quantiles(values: Tensor) -> list[float]:
    """From the smallest to the largest in steps of 5 %."""
    return torch.quantile(values.double(), torch.linspace(0, 1, 21, dtype=torch.double)).tolist()


def _l1_norms(arm: TrainedArm) -> Tensor:
    """Of the filters of all convolutions, over the largest of their layer."""
    norms = [filter_l1_norms(kernel, channel_dim=0).cpu() for kernel in _kernels(arm.model)]
    return torch.cat([of / of.max() for of in norms])


def _scales(arm: TrainedArm, part: str) -> Tensor:
    """``'gamma'`` or ``'bias'`` of the channels of all norm layers."""
    return torch.cat([getattr(of, part) for of in take_census(arm.model).values()])


def _trained_parameters(arm: TrainedArm) -> int:
    parameters = dict(arm.model.named_parameters())
    count = sum(parameter.numel() for parameter in parameters.values())
    for hook in arm.config.custom_hooks:
        if hook['type'] == 'FreezeHook':
            of = {key: hook.get(key) for key in ('train', 'freeze', 'per_channel')}
            for name, mask in TrainedParts(**of).frozen(arm.model, 0).items():
                count -= parameters[name].numel() - (0 if mask is None else int(mask.sum()))
    return count


def _path(parameter: str, layer: int = -2) -> Callable[[TrainedArm], list[Mapping[str, float]]]:
    """Of a norm layer of the backbone: of the last but one, in a ResNet one of inner channels, in
    BasicNet C6, as in the figures."""
    return lambda arm: [_percentiles(of[parameter]) for of in arm.scales_by_epoch(layer)]


def _ratio_path(arm: TrainedArm) -> list[Mapping[str, float | None]]:
    """beta / gamma, of the channels of that layer that have collapsed in the end."""
    scales = list(arm.scales_by_epoch(-2))
    end = scales[-1]['gamma']
    gone = collapsed_mask(end, threshold=COLLAPSED_GAMMA) & (end != 0)
    return [_percentiles(of['beta'][gone] / of['gamma'][gone]) for of in scales]


def _percentiles(values: Tensor) -> Mapping[str, float | None]:
    """None of no value."""
    # a key of digits alone would be an index in a cell
    return {
        f'p{at}': values.quantile(at / 100).item() if len(values) else None for at in (5, 50, 95)
    }


def _dead_by_epoch(arm: TrainedArm) -> list[Mapping[str, float]]:
    both = zip(arm.looks('few'), arm.looks('all'), strict=True)
    return [
        dict(few=few['sparsity/few/dead_fraction'], all=every['sparsity/all/dead_fraction'])
        for few, every in both
    ]


def _overlap_by_epoch(arm: TrainedArm) -> list[float | None]:
    return [of.get('sparsity/few/dead_overlap') for of in arm.looks('few')]


def _revivals(arm: TrainedArm) -> int:
    """Of which the overlap tells nothing where all that are dead were so before."""
    return sum(of.get('sparsity/all/revived', 0) for of in arm.looks('all'))


def _logged(arm: TrainedArm, name: str) -> list[float]:
    """Of each iteration, by the hook that prunes; empty in a dense training."""
    for hook in ('demp', 'sparse'):
        if values := arm.scalars(f'{hook}/{name}'):
            return values
    return []


def _training_flops(arm: TrainedArm) -> float:
    macs_left = _logged(arm, 'macs_left')
    if not macs_left:
        return 1.0
    dense_gradients = [bool(of) for of in _logged(arm, 'dense_gradients')] or None
    first = macs_left[0] if _is_small_at_first(arm) else 1.0
    return training_flops_left(macs_left, dense_gradients, first=first)


def _is_small_at_first(arm: TrainedArm) -> bool:
    """Whether what is logged after the first iteration is what it trained: masks change at the
    second one or later, channels before the first where a budget says so."""
    return any(
        hook['type'] == 'SparseWeightsHook' or (hook.get('budget') or {}).get('timing') == 'start'
        for hook in arm.config.custom_hooks
    )


def _weight_sparsity(arm: TrainedArm) -> float:
    masked = arm.scalars('sparse/weights_left')
    return 1 - (masked[-1] if masked else arm.left['weights'])


def _flops_left(arm: TrainedArm) -> list[float]:
    return [(1 - row['flops_sparsity']) * arm.left['macs'] for row in arm.rounds]


def _percent(label: str, read: Callable[[TrainedArm], Any]) -> Measure:
    """Of shares in [0, 1], drawn in percent."""
    return Measure(label, read, share=True)


MEASURES = {
    'top1': Measure('top-1 accuracy, %', _top1),
    'error': Measure('test error, %', lambda arm: 100 - arm.top1),
    'loss': Measure('training loss', lambda arm: _by_round('loss')(arm) or arm.train_loss()),
    'ensemble': Measure('top-1 of the ensemble, %', TrainedArm.ensemble),
    # of RoundsHook; channels are of norm layers, prunable ones inner channels
    'flops_sparsity': _percent('FLOPs sparsity, %', _by_round('flops_sparsity')),
    'collapsed': Measure('collapsed filters', _by_round('collapsed')),
    'channels': Measure('filters', _by_round('channels')),
    'dead': Measure('dead channels', _by_round('dead')),
    'flops_left': _percent('FLOPs left, %', _flops_left),
    'prunable': Measure('channels', _by_round('prunable')),
    'dead_share': _percent('dead channels, %', _dead_share),
    # of the filters of convolutions; inactive over the training images
    'small_share': _percent(
        'filters with |gamma| < 1e-3 or pruned, %', lambda arm: _removed(arm).share
    ),
    'inactive_share': _percent('inactive filters, %', lambda arm: _inactive(arm).share),
    'small_by_layer': _percent('filters removed, %', lambda arm: _by_layer(_removed(arm))),
    'inactive_by_layer': _percent('inactive filters, %', lambda arm: _by_layer(_inactive(arm))),
    'weights_removed': _percent(
        'weights of the collapsed and the pruned filters, %', _weights_removed
    ),
    'error_after': Measure(
        'test error without the collapsed filters, %',
        lambda arm: 100 - arm.accuracy(arm.without_collapsed),
    ),
    'trained_parameters': Measure('trained parameters', _trained_parameters),
    # percentiles over the channels of a layer, by epoch
    'gamma_path': Measure('gamma, {}', _path('gamma')),
    'beta_path': Measure('beta, {}', _path('beta')),
    'gamma_path_c5': Measure('gamma of C5, {}', _path('gamma', -3)),
    'beta_path_c5': Measure('beta of C5, {}', _path('beta', -3)),
    'ratio_path': Measure('beta / gamma of the collapsed, {}', _ratio_path),
    # of SparsityHooks with these names
    'dead_by_epoch': _percent('dead channels by {} pictures, %', _dead_by_epoch),
    'overlap_by_epoch': _percent('overlap with those ever dead, %', _overlap_by_epoch),
    'revivals': Measure('revivals by all pictures', _revivals),
    # of all norm layers, by threshold; and in points, where the small ones are 0
    'small_gammas': _percent('|gamma| < {}, % of channels', _small_gammas),
    'change_clamped': Measure('change of top-1 with |gamma| < {} at 0, points', _change_clamped),
    'relus_off': _percent('ReLUs off, %', lambda arm: _share(torch.cat(arm.relus) > 0.99)),
    # distributions, signed
    'zero_quantiles': Measure('Pr[a = 0] of a ReLU', lambda arm: _quantiles(torch.cat(arm.relus))),
    'gamma_quantiles': Measure('gamma', lambda arm: _quantiles(_scales(arm, 'gamma'))),
    'beta_quantiles': Measure('beta', lambda arm: _quantiles(_scales(arm, 'bias'))),
    'negative_gammas': _percent(
        'gamma < 0, % of channels', lambda arm: _share(_scales(arm, 'gamma') < 0)
    ),
    'l1_quantiles': Measure(
        'L1 norm of a filter, of the largest of its layer', lambda arm: _quantiles(_l1_norms(arm))
    ),
    'l1_small': _percent(
        'filters with an L1 norm below 1 % of the largest of their layer, %',
        lambda arm: _share(_l1_norms(arm) < 0.01),
    ),
    # Mehta et al. section 3, over the training images
    'universality_by_layer': Measure(
        'mean universality',
        lambda arm: [mean_universality({name: of}) for name, of in _backbone(arm.census).items()],
    ),
    # of what pruning in training has left or removed
    'left': _percent('{} left, %', lambda arm: arm.left),
    'removed': _percent('{} removed, %', lambda arm: {k: 1 - left for k, left in arm.left.items()}),
    'weight_sparsity': _percent('weight sparsity, %', _weight_sparsity),
    'training_flops': Measure('training FLOPs, of dense', _training_flops),
    'inference_flops': Measure(
        'inference FLOPs, of dense', lambda arm: (_logged(arm, 'macs_left') or [1.0])[-1]
    ),
    'speedup': Measure('last step, times faster than dense', TrainedArm.speedup),
    'onnx': _percent('time left in ONNX Runtime, %', TrainedArm.onnx_time_left),
    'train_seconds': Measure('training, s', TrainedArm.train_seconds),
    'map': Measure('COCO mAP', _map),
}
