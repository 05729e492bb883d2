"""Scores, hand-made; budgets, against every reachable width; removal, against masking."""

import copy
import dataclasses

import pytest
import torch
from nets import assert_same, build, flat, forward, masked_copy, snapshot, trace
from torch import nn

from mmpsbn.pruning import VerificationError, apply_plan
from mmpsbn.pruning.cost import count_positions, model_cost
from mmpsbn.pruning.plan import plan_from_keep_masks
from mmpsbn.pruning.prune import prune_channels
from mmpsbn.pruning.ranking import (
    RANKING_CRITERIA,
    _global_ranks,
    fisher_scores,
    keep_masks_for_budget,
    layerwise_l1_scores,
    rank_channels,
)
from mmpsbn.pruning.verification import masked_outputs


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture
def chain():
    """conv (4 channels) - BN - ReLU - conv (2 channels, no norm) - conv."""
    model = nn.Sequential(
        nn.Conv2d(1, 4, 1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 2, 1, bias=False),
        nn.Conv2d(2, 1, 1, bias=False),
    ).double()
    with torch.no_grad():
        model[0].weight.copy_(vector(1, -2, 4, 1).view(4, 1, 1, 1))
        model[1].weight.copy_(vector(0.5, -0.1, 0.3, 0.1))
        model[3].weight.copy_(vector(1, 1, -1, 0, 0, 1, 0, 0).view(2, 4, 1, 1))
    return model, trace(model, torch.randn(1, 1, 2, 2, dtype=torch.float64)).groups


def test_bn_scale_is_the_absolute_gamma_and_l1_times_their_median_without_a_norm(chain):
    scores = rank_channels(*chain, criterion='bn_scale', seed=0)
    torch.testing.assert_close(scores['0'], vector(0.5, 0.1, 0.3, 0.1))
    torch.testing.assert_close(scores['3'], vector(1.5, 0.5) * 0.1)


def test_l1_is_the_filter_norm_over_its_layer_mean(chain):
    scores = rank_channels(*chain, criterion='l1', seed=0)
    torch.testing.assert_close(scores['0'], vector(0.5, 1, 2, 0.5))
    torch.testing.assert_close(scores['3'], vector(1.5, 0.5))


def test_an_empty_filter_scores_0_and_an_unknown_one_highest(chain):
    model, groups = chain
    with torch.no_grad():
        model[3].weight.zero_()
        model[1].weight[1] = float('nan')
    assert rank_channels(model, groups, criterion='l1', seed=0)['3'].tolist() == [0, 0]
    scores = dict(a=vector(1, float('nan'), 3))
    assert keep_masks_of(scores, removed=2) == dict(a=[False, True, False])


def keep_masks_of(scores, removed):
    return {name: (rank > removed).tolist() for name, rank in _global_ranks(scores).items()}


def test_ties_go_from_the_later_group_and_the_higher_index_first():
    scores = dict(a=vector(1, 1), b=vector(1, 0))
    assert keep_masks_of(scores, removed=1) == dict(a=[True, True], b=[True, False])
    assert keep_masks_of(scores, removed=2) == dict(a=[True, True], b=[False, False])
    assert keep_masks_of(scores, removed=3) == dict(a=[True, False], b=[False, False])


@pytest.mark.parametrize('criterion', ['bn_scale', 'l1'])
def test_a_residual_channel_counts_as_much_as_its_strongest_writer(criterion):
    model, batch = build('residual')
    groups = trace(model, batch).groups
    stream = next(n for n, g in groups.items() if 'stem' in [m.layer for m in g.writers])
    before = rank_channels(model, groups, criterion=criterion, seed=0)[stream]
    writer = model.blocks[1].bn2 if criterion == 'bn_scale' else model.blocks[1].conv2
    with torch.no_grad():
        writer.weight[3] = 100.0
    after = rank_channels(model, groups, criterion=criterion, seed=0)[stream]
    assert after.argmax() == 3 and after[3] > before.max()


def test_random_is_the_seeds_alone(chain):
    first, again, other = (
        rank_channels(*chain, criterion='random', seed=seed)['0'] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_uniform_has_the_same_fraction_of_each_group_below_any_threshold():
    model, batch = build('fpn')
    groups = trace(model, batch).groups
    for threshold in (0.2, 0.5, 0.8):
        for score in layerwise_l1_scores(model, groups).values():
            assert abs(float((score <= threshold).double().mean()) - threshold) <= 1 / len(score)


def test_uniform_takes_the_smallest_filters_first(chain):
    score = rank_channels(*chain, criterion='uniform', seed=0)['0']
    assert score.argsort(descending=True).tolist()[:2] == [2, 1] and score[3] < score[0]


def test_fisher_takes_what_the_loss_misses_nothing_of_and_then_the_same_share_of_each_group():
    scores = fisher_scores(
        dict(
            a=vector(4.0, 1.0, 3.0, 2.0),
            small=vector(4e-9, 1e-9),
            half_dead=vector(0.0, 5.0, 0.0, 7.0),
            unknown=vector(float('inf'), float('inf')),
        )
    )
    assert {name: score.tolist() for name, score in scores.items()} == dict(
        a=[1.0, 0.25, 0.75, 0.5],
        small=[1.0, 0.5],
        half_dead=[0.0, 0.75, 0.0, 1.0],
        unknown=[float('inf')] * 2,
    )


def test_a_transposed_convolution_has_its_filters_in_another_dimension():
    model = nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.ReLU(), nn.Conv2d(4, 2, 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(vector(1, 2, 3, 0).view(1, 4, 1, 1).expand(3, 4, 2, 2))
    groups = trace(model, torch.randn(1, 3, 4, 4, dtype=torch.float64)).groups
    scores = rank_channels(model, groups, criterion='l1', seed=0)['0']
    torch.testing.assert_close(scores, vector(1, 2, 3, 0) / 1.5)


class Case:
    """A net, its groups and scores."""

    def __init__(self, name='fpn', criterion='l1'):
        self.model, self.batch = build(name)
        self.groups = trace(self.model, self.batch).groups
        self.positions = count_positions(self.model, self.batch[:1], forward)
        self.scores = rank_channels(self.model, self.groups, criterion=criterion, seed=0)

    def cost(self, measure='macs'):
        return getattr(model_cost(self.model, self.positions), measure)

    def masks(self, target, measure='macs', min_channels=1, multiples=(1,)):
        settings = dict(measure=measure, min_channels=min_channels, multiples=multiples)
        masks, left, self.multiple = keep_masks_for_budget(
            self.model, self.groups, self.scores, self.positions, target=target, **settings
        )
        return masks, left

    def prune(self, masks, groups=None, tolerance=1e-11):
        how = dict(batch=self.batch, forward_fn=forward, tolerance=tolerance, live=True)
        return prune_channels(self.model, groups or self.groups, masks, **how)

    def cost_after(self, masks, measure):
        pruned = copy.deepcopy(self.model)
        apply_plan(pruned, plan_from_keep_masks(self.model, self.groups, masks))
        return getattr(model_cost(pruned, self.positions), measure)


@pytest.mark.parametrize(
    'criterion, measure, target',
    [
        *((criterion, 'macs', 0.5) for criterion in RANKING_CRITERIA),
        *(('l1', 'params', target) for target in (0.2, 0.5, 0.83)),
        ('uniform', 'macs', 0.2),
    ],
)
def test_the_budget_comes_as_near_as_any_number_of_channels(criterion, target, measure):
    case = Case(criterion=criterion)
    dense, before = case.cost(measure), snapshot(case.model)
    masks, left = case.masks(target * dense, measure)
    assert_same(snapshot(case.model), before)
    order = torch.cat(list(case.scores.values())).sort(descending=True, stable=True).values
    reachable = []
    for threshold in [*order.unique().tolist(), -1.0]:
        keep = {name: score > threshold for name, score in case.scores.items()}
        for mask, score in zip(keep.values(), case.scores.values()):
            mask[score.argmax()] = True
        reachable.append(case.cost_after(keep, measure) / dense)
    ours = case.cost_after(masks, measure) / dense
    assert ours == left / dense
    assert abs(ours - target) <= min(abs(cost - target) for cost in reachable) + 1e-12


def test_widths_are_multiples_and_never_below_the_minimum():
    case = Case()
    masks, _ = case.masks(0.45 * case.cost(), min_channels=3, multiples=[2])
    for name, mask in masks.items():
        kept = int(mask.sum())
        assert kept >= 3 and (kept % 2 == 0 or kept == case.groups[name].channels)


def test_of_several_multiples_the_first_that_comes_near_enough_is_taken():
    case = Case()
    target = 0.65 * case.cost()
    alone = {multiple: case.masks(target, multiples=[multiple]) for multiple in (4, 2, 1)}
    errors = {multiple: abs(left / target - 1) for multiple, (_, left) in alone.items()}
    assert errors[4] > 0.02 > errors[1] > errors[2], errors  # or this would show nothing
    masks, left = case.masks(target, multiples=[4, 2, 1])
    assert left == alone[2][1] and all(map(torch.equal, masks.values(), alone[2][0].values()))
    assert case.multiple == 2
    assert case.masks(target, multiples=[4, 1])[1] == alone[1][1] and case.multiple == 1


def test_where_no_multiple_comes_near_enough_the_nearest_is_taken():
    case = Case('residual')
    target = 0.4 * case.cost()
    alone = {multiple: case.masks(target, multiples=[multiple])[1] for multiple in (4, 2, 1)}
    errors = {multiple: abs(left / target - 1) for multiple, left in alone.items()}
    assert errors[2] < 0.02 < min(errors[4], errors[1]) and errors[4] < errors[1], errors
    assert case.masks(target, multiples=[4, 1])[1] == alone[4] and case.multiple == 4


def test_out_of_reach_the_nearest_point_is_returned_and_inf_stays():
    case = Case()
    masks, left = case.masks(0, min_channels=2)
    assert all(int(mask.sum()) == 2 for mask in masks.values()) and 0 < left < case.cost() / 4
    masks, left = case.masks(2e9)
    assert all(mask.all() for mask in masks.values()) and left == case.cost()
    case.scores['tower'][:] = float('inf')
    masks, _ = case.masks(0)
    assert masks['tower'].all() and int(masks['fpn1'].sum()) == 1


def test_an_unknown_criterion_is_refused(chain):
    with pytest.raises(ValueError, match="one of .*'uniform'.*got 'l3'"):
        rank_channels(*chain, criterion='l3', seed=0)


def test_where_no_group_has_a_norm_or_none_is_left_bn_scale_is_l1():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).double()
    groups = trace(model, torch.randn(1, 3, 2, 2, dtype=torch.float64)).groups
    scores = rank_channels(model, groups, criterion='bn_scale', seed=0)
    assert torch.equal(scores['0'], rank_channels(model, groups, criterion='l1', seed=0)['0'])
    settings = dict(measure='macs', target=0, min_channels=1, multiples=[1])
    for criterion in RANKING_CRITERIA:
        scores = rank_channels(model, {}, criterion=criterion, seed=0)
        assert scores == {}
        assert keep_masks_for_budget(model, {}, scores, {}, **settings)[0] == {}


@pytest.mark.parametrize('name', ['residual', 'fpn', 'mobile', 'shuffle', 'context'])
def test_live_channels_are_removed_as_if_masked_where_they_are_read(name):
    case = Case(name)
    dense = case.cost()
    masks, _ = case.masks(0.5 * dense)
    masked = masked_copy(case.model, case.groups, masks).eval()
    expected = masked_outputs(case.model, case.groups, masks, case.batch, forward)
    for ours, theirs in zip(expected, flat(masked(case.batch))):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    assert sum(case.prune(masks).channels_removed.values()) > 3
    assert case.cost() < 0.6 * dense


def test_a_removal_that_is_not_the_masking_is_undone():
    case = Case('residual')
    masks, _ = case.masks(0.5 * case.cost())
    name = 'blocks.0.conv1'  # its reader loses other channels than are masked
    (reader,) = case.groups[name].readers
    wrong = dataclasses.replace(reader, channel=reader.channel[::-1])
    groups = {**case.groups, name: dataclasses.replace(case.groups[name], readers=(wrong,))}
    before = snapshot(case.model)
    with pytest.raises(VerificationError) as caught:
        case.prune(masks, groups, tolerance=1e-9)
    assert caught.value.groups == [name]
    assert_same(snapshot(case.model), before)
