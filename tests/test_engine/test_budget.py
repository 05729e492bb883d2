"""A budget by itself: what a clock says, and what it may choose."""

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
        target = at.budget.planned(share)
        masks, _ = at.budget.nearest(at.model, graph.groups, scores, target)
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
    for free_widths, multiples in ((False, (1,)), (True, chosen)):
        found = Budget(BudgetSettings(latency=0.5), PruneSettings(), free_widths=free_widths)
        found.start(model, graph.groups, positions, inputs, '')
        assert found.round_to in multiples


def test_a_line_through_two_models_that_hardly_differ_in_time_leads_not_to_nothing(monkeypatch):
    """The clock moves below 30 % of the MACs alone."""

    dense = []

    def clock(macs):
        dense.append(macs)  # the first one is that of the model at the start
        return 10 * min(macs / (0.3 * dense[0]), 1 + 1e-6 * macs / dense[0])

    at = by_itself(monkeypatch, clock, latency=0.5)
    groups = trace_channel_graph(at.model, at.inputs, at.forward).groups
    scores = {name: torch.rand(group.channels).double() for name, group in groups.items()}
    masks, _ = at.budget.nearest(at.model, groups, scores, at.budget.planned(0.2))
    apply_plan(at.model, plan_from_keep_masks(at.model, groups, masks))
    at.budget.count(at.model)
    assert at.budget.planned(1.0) > 0.2 * dense[0]


@pytest.mark.parametrize('free_widths, multiple', [(True, 8), (False, 1)])
def test_a_resumed_budget_keeps_the_multiple_that_the_clock_chose(free_widths, multiple):
    settings = BudgetSettings(latency=0.5)
    began = Budget(settings, PruneSettings(round_to=8), free_widths=True)
    goes_on = Budget(settings, PruneSettings(), free_widths=free_widths)
    goes_on.restore(began.state())
    assert goes_on.round_to == multiple
