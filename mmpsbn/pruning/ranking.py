"""Which live channels matter least: scores, and keep masks for a budget.

A score is shape (channels,), float64, on the CPU, higher = kept. A channel counts as
much as the strongest of the layers that write it, for it goes from all of them.
A NaN weight scores infinity: what is unknown is never taken for unimportant.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..functional.statistics import filter_l1_norms
from .cost import model_cost
from .graph import ChannelGroup, Member
from .lossless import keep_mask_of
from .plan import plan_from_keep_masks
from .sparsity import scale_layers

RANKING_CRITERIA = ('bn_scale', 'l1', 'random', 'uniform')
# A budget in MACs or parameters is met within this fraction of its target.
BUDGET_TOLERANCE = 0.02
# Multiples of which widths are where nothing else is asked for: CPUs like 8 (docs/results.md), and
# where so narrow a model cannot meet a budget, they are finer.
LIKED_MULTIPLES = (8, 4, 2, 1)


def rank_channels(
    model: nn.Module, groups: Mapping[str, ChannelGroup], *, criterion: str, seed: int
) -> dict[str, Tensor]:
    """The scores of a criterion, by group; ``seed`` is for ``'random'`` alone. ``'l1'`` compares
    filters over the whole model, ``'uniform'`` within each layer.

    Raises:
        ValueError: an unknown criterion.
    """
    if criterion == 'bn_scale':
        return bn_scale_scores(model, groups)
    if criterion == 'l1':
        return l1_scores(model, groups)
    if criterion == 'random':
        return random_scores(groups, seed=seed)
    if criterion == 'uniform':
        return layerwise_l1_scores(model, groups)
    raise ValueError(f'criterion must be one of {RANKING_CRITERIA}, got {criterion!r}')


def bn_scale_scores(model: nn.Module, groups: Mapping[str, ChannelGroup]) -> dict[str, Tensor]:
    """|gamma| of the norm layers that a channel goes through (network slimming, 1708.06519).

    A channel without a norm has no gamma. Its score is its l1 score, which is 1 on average,
    times the median |gamma| of the other channels: the average filter counts as much as
    the typical normalised channel. Where no channel has a gamma, the l1 scores are all there is.
    """
    scales = {name: layer.weight.detach().abs() for name, layer in scale_layers(model).items()}
    gammas = {
        name: _strongest(
            group, ((m, scales[m.layer]) for m in group.channelwise if m.layer in scales)
        )
        for name, group in groups.items()
    }
    l1 = l1_scores(model, groups)
    if all(gamma.isnan().all() for gamma in gammas.values()):
        return l1
    typical = torch.cat(list(gammas.values())).nanmedian()
    return {name: gamma.where(~gamma.isnan(), l1[name] * typical) for name, gamma in gammas.items()}


def l1_scores(model: nn.Module, groups: Mapping[str, ChannelGroup]) -> dict[str, Tensor]:
    """sum |w| of a channel's filter over the mean of its layer's filters (1608.08710)."""
    scores = {}
    for name, group in groups.items():
        norms = [(member, _filter_norms(model, member)) for member in group.writers]
        tiny = torch.finfo(torch.float64).tiny  # an all-zero layer scores 0, not NaN
        scores[name] = _strongest(group, [(m, x / x.mean().clamp_min(tiny)) for m, x in norms])
    return scores


def random_scores(groups: Mapping[str, ChannelGroup], *, seed: int) -> dict[str, Tensor]:
    """U[0, 1), the same for the same seed and groups."""
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same on any device
    return {
        name: torch.rand(group.channels, generator=generator, dtype=torch.float64)
        for name, group in groups.items()
    }


def layerwise_l1_scores(model: nn.Module, groups: Mapping[str, ChannelGroup]) -> dict[str, Tensor]:
    """Layer-wise L1: 1 - rank / C, rank 0 being the largest l1 of the group's C channels, so that
    below any threshold lies the same fraction of each group (psBN paper, "uniform ablation")."""
    return {name: _ranks(l1) for name, l1 in l1_scores(model, groups).items()}


def _ranks(values: Tensor) -> Tensor:
    """1 for the largest of C values .. 1 / C for the smallest; infinity stays."""
    return (1 - _places(values) / len(values)).where(values < math.inf, math.inf)


def _places(values: Tensor) -> Tensor:
    """0 for the largest value, 1 for the next; of equal ones the earlier comes first."""
    order = torch.sort(values, descending=True, stable=True).indices
    places = torch.empty_like(values)
    places[order] = torch.arange(len(values), dtype=values.dtype)
    return places


def _filter_norms(model: nn.Module, writer: Member) -> Tensor:
    """sum |w| of each of a layer's filters, shape (size,), float64."""
    # by its slice, not by the layer: a parameter of any module may write channels
    name, dim = next((name, dim) for name, dim in writer.slices if name != 'bias')
    weight = getattr(model.get_submodule(writer.layer), name)
    return filter_l1_norms(weight.double(), channel_dim=dim).cpu()


def _strongest(group: ChannelGroup, values: Iterable[tuple[Member, Tensor]]) -> Tensor:
    """The largest value (>= 0) of each channel over all members, whose values are by layer
    position; NaN where no member has the channel."""
    score = torch.full((group.channels,), -1.0, dtype=torch.float64)
    for member, value in values:
        index, channel = torch.tensor(member.index), torch.tensor(member.channel)
        value = value.double().cpu()[index].nan_to_num(nan=math.inf)
        score = score.scatter_reduce(0, channel, value, 'amax')
    return score.where(score >= 0, math.nan)


def fisher_scores(saliency: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The rank in its group of what the loss misses without a channel, as in
    :func:`layerwise_l1_scores`; 0 for what it misses nothing of.

    So each layer is left the same fraction of its channels, whatever is dead goes first, and the
    loss decides within a layer. Compared over the whole model, as in Group Fisher Pruning, the
    same sums leave layers with a channel or two, through which nothing comes any more
    (docs/results.md has the numbers).

    Args:
        saliency: the sums of :class:`.GateSaliency`.
    """
    return {name: _ranks(sums).where(sums > 0, 0) for name, sums in saliency.items()}


def keep_masks_for_budget(
    model: nn.Module,
    groups: Mapping[str, ChannelGroup],
    scores: Mapping[str, Tensor],
    positions: Mapping[str, float],
    *,
    measure: str,
    target: float,
    min_channels: int,
    multiples: Sequence[int],
    tolerance: float = BUDGET_TOLERANCE,
) -> tuple[dict[str, Tensor], float, int]:
    """Keep masks that leave about ``target`` MACs or parameters.

    One threshold for all groups: the n lowest scores of the whole model go, except those
    that stay for ``min_channels`` or to fill a multiple; the n whose cost comes nearest is
    found by bisection. Ties go channel by channel, the later group and the higher index
    first. The model is not touched.

    Args:
        scores: group name -> shape (channels,), higher = kept; inf is always kept.
        positions: what ``count_positions`` gave.
        measure: ``'macs'`` or ``'params'``.
        multiples: of which widths may be: the first that comes within ``tolerance``, a
            fraction of ``target``, or else the one that comes nearest.

    Returns:
        The keep masks, what they leave, and the multiple.
    """
    ranks = _global_ranks(scores)
    total = sum(int((score < math.inf).sum()) for score in scores.values())

    def masks(removed: int, multiple: int) -> dict[str, Tensor]:
        rounding = dict(min_channels=min_channels, round_to=multiple)
        return {
            name: keep_mask_of(groups[name], rank, rank <= removed, **rounding)
            for name, rank in ranks.items()
        }

    def left(removed: int, multiple: int) -> float:
        plan = plan_from_keep_masks(model, groups, masks(removed, multiple))
        return getattr(model_cost(model, positions, plan.shapes_after()), measure)

    found = []
    for multiple in multiples:
        enough, too_many = 0, total  # left(enough) >= target >= left(too_many), if it is in reach
        while too_many - enough > 1:
            middle = (enough + too_many) // 2
            if left(middle, multiple) >= target:
                enough = middle
            else:
                too_many = middle
        # rounding makes steps: the one before the target may be nearer than the one behind
        found += [(left(removed, multiple), removed, multiple) for removed in (enough, too_many)]
        reached, best, used = min(found, key=lambda at: abs(at[0] - target))
        if is_near(reached, target, tolerance):
            break
    return masks(best, used), reached, used


def is_near(left: float, target: float, tolerance: float = BUDGET_TOLERANCE) -> bool:
    """Whether a budget is met by what is left, within a fraction of it."""
    return abs(left - target) <= tolerance * target


def _global_ranks(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scores as ranks 1 (lowest) .. N over all groups, all different."""
    if not scores:
        return {}
    joined = torch.cat(list(scores.values()))
    ranks = len(joined) - _places(joined)
    return dict(zip(scores, ranks.split([len(score) for score in scores.values()])))
