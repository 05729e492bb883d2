"""A budget by itself: what a clock says, and what it may choose."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from toy import ToyNet

from mmpsbn.engine.demp import budget
from mmpsbn.engine.demp.budget import Budget
from mmpsbn.engine.demp.settings import BudgetSettings, PruneSettings
from mmpsbn.pruning import apply_plan, trace_channel_graph
from mmpsbn.pruning.cost import count_positions, model_cost
from mmpsbn.pruning.plan import plan_from_keep_masks


def by_itself(monkeypatch, clock, **settings):
    """A budget, its model and that model's graph; ``clock(macs)``: milliseconds."""
    torch.manual_seed(0)
    model, inputs = ToyNet(width=32, inner=48), torch.randn(1, 3, 8, 8)

    def forward(m, b):
        return m(b)

    positions = count_positions(model, inputs, forward)
    monkeypatch.setattr(budget, 'milliseconds', lambda m, *_: clock(model_cost(m, positions).macs))
    graph = trace_channel_graph(model, inputs, forward)
    found = Budget(BudgetSettings(**settings), PruneSettings(), free_widths=False)
    found.start(model, graph.groups, positions, inputs, '')
    return SimpleNamespace(budget=found, model=model, inputs=inputs, forward=forward)


def test_a_latency_is_met_through_the_line_of_latency_over_macs(monkeypatch):
    dense = 2_000_000.0
    at = by_itself(monkeypatch, lambda macs: 4 + 6 * macs / dense, latency_ms=7.0)
    for share in (0.25, 0.5, 0.75, 1.0):  # each cut comes nearer
        graph = trace_channel_graph(at.model, at.inputs, at.forward)
        scores = {n: torch.rand(g.channels).double() for n, g in graph.groups.items()}
        masks = at.budget.choose(at.model, graph.groups, scores, share)
        apply_plan(at.model, plan_from_keep_masks(at.model, graph.groups, masks))
        at.budget.count(at.model)
    assert at.budget.met and abs(at.budget.left / at.budget.target - 1) <= 0.02


def test_a_latency_that_the_model_has_already_is_refused(monkeypatch):
    with pytest.raises(ValueError, match='budget latency_ms=7.0 is met by the model as it is'):
        by_itself(monkeypatch, lambda macs: 5.0, latency_ms=7.0)


def test_a_latency_that_hardly_depends_on_the_width_is_refused(monkeypatch):
    with pytest.raises(
        ValueError, match=r'budget latency=0.8 cannot be met: .* 9\d.\d% of the latency_ms are left'
    ):
        by_itself(monkeypatch, lambda macs: 10 + macs / 1e8, latency=0.8)


@pytest.mark.parametrize('step, chosen', [(8, (8, 16)), (1, (1,))])
def test_the_fastest_multiple_is_that_of_the_clock(monkeypatch, step, chosen):
    """Where odd widths take as long as the next multiple of eight, and where they do not."""

    def in_blocks(model, *_):
        return float(
            sum(-(-block.conv1.out_channels // step) for block in model.blocks)
            * model.stem.out_channels
        )

    torch.manual_seed(0)
    model, inputs = ToyNet(width=64, inner=100), torch.randn(1, 3, 8, 8)
    graph = trace_channel_graph(model, inputs, lambda m, b: m(b))
    positions = count_positions(model, inputs, lambda m, b: m(b))
    monkeypatch.setattr(budget, 'milliseconds', in_blocks)
    found = Budget(BudgetSettings(latency=0.5), PruneSettings(), free_widths=True)
    found.start(model, graph.groups, positions, inputs, '')
    assert found.state()['multiples'][0] in chosen


@pytest.mark.parametrize('bend', [0.3, 1.0, 2.0])
def test_a_clock_that_is_no_line_is_met_and_odd_widths_on_the_way_lead_nowhere(monkeypatch, bend):
    """It goes with a power of the MACs; any but the last cut leaves odd widths, which are slow."""
    dense, odd = [], []

    def clock(macs):
        dense.append(macs)  # the first one is that of the model at the start
        return (10 if odd else 5) * (macs / dense[0]) ** bend + 5

    at = by_itself(monkeypatch, clock, latency=0.8)
    for share in (0.3, 0.6, 1.0):
        groups = trace_channel_graph(at.model, at.inputs, at.forward).groups
        scores = {name: torch.rand(group.channels).double() for name, group in groups.items()}
        masks = at.budget.choose(at.model, groups, scores, share)
        apply_plan(at.model, plan_from_keep_masks(at.model, groups, masks))
        odd[:] = [share] * (share < 1)
        at.budget.count(at.model)
    assert at.budget.met and at.budget.left > 0.8 * 0.95


def test_what_takes_longer_than_the_copies_did_is_cut_once_more(monkeypatch):
    slow = []
    at = by_itself(monkeypatch, lambda macs: (1.2 if slow else 1) * (1 + macs / 1e6), latency=0.6)
    left = []
    slow.append(True)
    for _ in range(2):
        groups = trace_channel_graph(at.model, at.inputs, at.forward).groups
        scores = {name: torch.rand(group.channels).double() for name, group in groups.items()}
        masks = at.budget.choose(at.model, groups, scores, 1.0)
        apply_plan(at.model, plan_from_keep_masks(at.model, groups, masks))
        at.budget.count(at.model)
        left.append(at.budget.left)
    assert left[1] < left[0]


@pytest.mark.parametrize('free_widths, multiples', [(True, (4, 2, 1)), (False, (1,))])
def test_a_resumed_budget_keeps_the_multiple_that_the_clock_chose(free_widths, multiples):
    settings = BudgetSettings(latency=0.5)
    goes_on = Budget(settings, PruneSettings(), free_widths=free_widths)
    goes_on.restore(dict(dense={}, now={}, narrowest={}, macs_in_time=None, multiples=(4, 2, 1)))
    assert goes_on.state()['multiples'] == multiples


def widths_after_cuts(count, *, width, inner, free_widths=True, **prune):
    """Of what the ToyNet's groups are left after each of so many even cuts to half of the MACs."""
    torch.manual_seed(0)
    model, inputs = ToyNet(width=width, inner=inner), torch.randn(1, 3, 8, 8)

    def forward(m, b):
        return m(b)

    positions = count_positions(model, inputs, forward)
    found = Budget(BudgetSettings(flops=0.5), PruneSettings(**prune), free_widths=free_widths)
    groups = trace_channel_graph(model, inputs, forward).groups
    found.start(model, groups, positions, inputs, '')
    scores = {n: torch.linspace(1, 2, g.channels).double() for n, g in groups.items()}
    steps = []
    for k in range(1, count + 1):
        groups = trace_channel_graph(model, inputs, forward).groups
        masks = found.choose(model, groups, scores, k / count)
        apply_plan(model, plan_from_keep_masks(model, groups, masks))
        found.count(model)
        planned = 1 - 0.5 * k / count
        assert abs(found.left / planned - 1) <= 0.025  # what one channel is
        scores = {n: s[masks[n]] if n in masks else s for n, s in scores.items()}
        steps.append([len(score) for score in scores.values()])
    return steps


@pytest.mark.parametrize(
    'toy, multiple',
    [
        (dict(width=88, inner=136), 8),
        (dict(width=40, inner=72, free_widths=False), 1),
        (dict(width=64, inner=96, free_widths=False, round_to=16), 16),
        (dict(width=24, inner=36), 2),
    ],
    ids=['by default', 'as asked for', 'coarser', 'where a model is narrow'],
)
def test_widths_are_multiples_after_the_last_cut_and_any_before(toy, multiple):
    *before, last = widths_after_cuts(5, **toy)
    assert all(width % multiple == 0 for width in last)
    assert any(width % (2 * multiple) for width in last)
    if multiple > 2:
        assert all(any(width % multiple for width in widths) for widths in before)
    for wider, narrower in pairwise([*before, last]):
        assert all(a >= b for a, b in zip(wider, narrower))


def test_small_cuts_take_from_all_layers_alike():
    """With multiples of 16 too, of which a layer has four to six."""
    first, *_ = widths_after_cuts(10, width=64, inner=96, free_widths=False, round_to=16)
    assert max(width / before for width, before in zip(first, (64, 96, 96, 96))) < 1
