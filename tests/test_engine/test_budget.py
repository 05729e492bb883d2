"""A budget by itself: what a clock says, and what it may choose."""

from itertools import pairwise

import pytest
import torch
from toy import ToyNet

from mmpsbn.engine.demp import budget as budget_module
from mmpsbn.engine.demp.budget import Budget
from mmpsbn.engine.demp.settings import BudgetSettings, PruneSettings
from mmpsbn.pruning import apply_plan, trace_channel_graph
from mmpsbn.pruning.cost import count_positions, model_cost
from mmpsbn.pruning.forward import call_with
from mmpsbn.pruning.plan import plan_from_keep_masks
from mmpsbn.pruning.ranking import LIKED_MULTIPLES

INPUTS = torch.randn(1, 3, 8, 8)


def start(monkeypatch, clock=None, *, width=32, inner=48, free_widths=False, prune=None, **budget):
    """A budget that has begun, and its model; ``clock(model, macs)``: milliseconds."""
    torch.manual_seed(0)
    model = ToyNet(width=width, inner=inner)

    def milliseconds(model, *_):
        return clock(model, model_cost(model, positions_of(model)).macs)

    monkeypatch.setattr(budget_module, 'milliseconds', milliseconds)
    budget = Budget(BudgetSettings(**budget), PruneSettings(**prune or {}), free_widths=free_widths)
    budget.start(model, groups_of(model), positions_of(model), INPUTS, '')
    return budget, model


def positions_of(model):
    return count_positions(model, INPUTS, call_with)


def groups_of(model):
    return trace_channel_graph(model, INPUTS, call_with).groups


def cut(budget, model, share, scores=None):
    """The keep masks of a cut, by scores that are random by default."""
    groups = groups_of(model)
    scores = scores or {name: torch.rand(g.channels).double() for name, g in groups.items()}
    masks = budget.choose(model, groups, scores, share)
    apply_plan(model, plan_from_keep_masks(model, groups, masks))
    budget.count(model, clock=share == 1)
    return masks


def test_a_latency_is_met_through_the_line_of_latency_over_macs(monkeypatch):
    budget, model = start(monkeypatch, lambda _, macs: 4 + 3e-6 * macs, latency_ms=7.0)
    for share in (0.25, 0.5, 0.75, 1.0):  # each cut comes nearer
        cut(budget, model, share)
    assert budget.met and abs(budget.left / budget.target - 1) <= 0.02


def test_a_latency_that_the_model_has_already_is_refused(monkeypatch):
    with pytest.raises(ValueError, match='budget latency_ms=7.0 is met by the model as it is'):
        start(monkeypatch, lambda *_: 5.0, latency_ms=7.0)


def test_a_latency_that_hardly_depends_on_the_width_is_refused(monkeypatch):
    with pytest.raises(
        ValueError, match=r'budget latency=0.8 cannot be met: .* 9\d.\d% of the latency_ms are left'
    ):
        start(monkeypatch, lambda _, macs: 10 + macs / 1e8, latency=0.8)


@pytest.mark.parametrize('step, chosen', [(8, (8, 16)), (1, (1,))])
def test_the_fastest_multiple_is_that_of_the_clock(monkeypatch, step, chosen):
    """Where odd widths take as long as the next multiple of eight, and where they do not."""

    def in_blocks(model, *_):
        return float(
            sum(-(-block.conv1.out_channels // step) for block in model.blocks)
            * model.stem.out_channels
        )

    toy = dict(width=64, inner=100, free_widths=True)
    budget, _ = start(monkeypatch, in_blocks, latency=0.5, **toy)
    assert budget.state()['multiples'][0] in chosen


def test_a_time_takes_coarser_widths_than_a_count(monkeypatch):
    errors, widths = {}, {}
    for kind in ('flops', 'latency'):
        toy = dict(width=80, inner=64, free_widths=True)
        budget, model = start(monkeypatch, lambda _, macs: macs, **{kind: 0.5}, **toy)
        budget.restore(budget.state() | dict(multiples=LIKED_MULTIPLES))
        scores = {n: torch.linspace(1, 2, g.channels).double() for n, g in groups_of(model).items()}
        aim = 0.5 * model_cost(model, positions_of(model)).macs
        masks, left = budget.nearest(model, groups_of(model), scores, aim)
        errors[kind], widths[kind] = abs(left / aim - 1), [int(m.sum()) for m in masks.values()]
    assert errors['flops'] <= 0.02 < errors['latency'] <= 0.05
    assert any(width % 8 for width in widths['flops'])
    assert not any(width % 8 for width in widths['latency'])


@pytest.mark.parametrize('resumed', [False, True])
@pytest.mark.parametrize('bend', [0.3, 1.0, 2.0])
def test_a_clock_that_is_no_line_is_met_and_on_the_way_it_is_not_asked(monkeypatch, bend, resumed):
    """It goes with a power of the MACs; any but the last cut leaves odd widths, which are slow."""
    dense, odd = [], []

    def clock(_, macs):
        assert not odd
        dense.append(macs)  # the first one is that of the model at the start
        return 5 * (macs / dense[0]) ** bend + 5

    budget, model = start(monkeypatch, clock, latency=0.8)
    odd.append('from here on')
    for share in (0.3, 0.6, 0.99):
        cut(budget, model, share)
        assert budget.left is None and not budget.met
        assert budget.counted == pytest.approx(budget.planned(share), abs=0.02)
    if resumed:
        state = budget.state()
        budget = Budget(BudgetSettings(latency=0.8), PruneSettings(), free_widths=False)
        budget.restore(state)
        budget.start(model, groups_of(model), positions_of(model), INPUTS, '')
    odd.clear()
    cut(budget, model, 1.0)
    assert budget.met and budget.left > 0.8 * 0.95


def test_what_takes_longer_than_the_copies_did_is_cut_once_more(monkeypatch):
    slow, left = [], []

    def clock(_, macs):
        return (1.2 if slow else 1) * (1 + macs / 1e6)

    budget, model = start(monkeypatch, clock, latency=0.6)
    slow.append(True)
    for _ in range(2):
        cut(budget, model, 1.0)
        left.append(budget.left)
    assert left[1] < left[0]


@pytest.mark.parametrize('free_widths, multiples', [(True, (4, 2, 1)), (False, (1,))])
def test_a_resumed_budget_keeps_the_multiple_that_the_clock_chose(free_widths, multiples):
    settings = BudgetSettings(latency=0.5)
    goes_on = Budget(settings, PruneSettings(), free_widths=free_widths)
    goes_on.restore(dict(dense={}, now={}, narrowest={}, macs_in_time=None, multiples=(4, 2, 1)))
    assert goes_on.state()['multiples'] == multiples


def widths_after_cuts(count, monkeypatch, **toy):
    """Of what the ToyNet's groups are left after each of so many even cuts to half of the MACs."""
    budget, model = start(monkeypatch, flops=0.5, **toy)
    scores = {n: torch.linspace(1, 2, g.channels).double() for n, g in groups_of(model).items()}
    steps = []
    for k in range(1, count + 1):
        masks = cut(budget, model, k / count, scores)
        planned = 1 - 0.5 * k / count
        assert abs(budget.left / planned - 1) <= 0.025  # what one channel is
        scores = {n: s[masks[n]] if n in masks else s for n, s in scores.items()}
        steps.append([len(score) for score in scores.values()])
    return steps


@pytest.mark.parametrize(
    'toy, multiple',
    [
        (dict(width=88, inner=136, free_widths=True), 8),
        (dict(width=80, inner=128, free_widths=True), 8),
        (dict(width=40, inner=72), 1),
        (dict(width=64, inner=96, prune=dict(round_to=16)), 16),
        (dict(width=40, inner=72, free_widths=True), 4),
        (dict(width=24, inner=36, free_widths=True), 2),
    ],
    ids=['by default', 'where 16 would do', 'as asked for', 'coarser', 'narrow', 'narrower'],
)
def test_widths_are_multiples_after_the_last_cut_and_any_before(monkeypatch, toy, multiple):
    *before, last = widths_after_cuts(5, monkeypatch, **toy)
    assert all(width % multiple == 0 for width in last)
    assert any(width % (2 * multiple) for width in last)
    if multiple > 4:
        assert all(any(width % multiple for width in widths) for widths in before)
    for wider, narrower in pairwise([*before, last]):
        assert all(a >= b for a, b in zip(wider, narrower))


def test_small_cuts_take_from_all_layers_alike(monkeypatch):
    """With multiples of 16 too, of which a layer has four to six."""
    first, *_ = widths_after_cuts(10, monkeypatch, width=64, inner=96, prune=dict(round_to=16))
    assert max(width / before for width, before in zip(first, (64, 96, 96, 96))) < 1
