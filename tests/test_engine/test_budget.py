"""Budgets: a closed loop that arrives, stops, and says so when it cannot."""

import logging

import pytest
import torch
from runs import demp, inner_widths, killing, pruner_of, scalars, train
from toy import ToyNet

from mmpsbn.engine.demp import budget
from mmpsbn.engine.demp.budget import Budget
from mmpsbn.engine.demp.settings import BudgetSettings, PruneSettings
from mmpsbn.pruning import apply_plan, trace_channel_graph
from mmpsbn.pruning.cost import count_positions, model_cost
from mmpsbn.pruning.plan import plan_from_keep_masks

WIDE = dict(type='ToyNet', width=16, inner=48)


def run(tmp_path, iters, *prepare, **hook):
    """An event every 5 iterations, at full strength all the time."""
    hook = demp(interval=5, **hook) | dict(schedule=dict(type='constant'))
    return train(tmp_path, [hook], *prepare, iters=iters, model=WIDE)


@pytest.mark.parametrize('kind, target', [('flops', 0.5), ('params', 0.4)])
def test_the_loop_meets_the_target_within_2_percent_and_then_all_stops(tmp_path, kind, target):
    runner, messages = run(tmp_path, 200, penalty=0.05, noise=0.03, budget={kind: target})
    pruner = pruner_of(runner)
    if kind == 'flops':
        left = pruner.progress.left['macs']
    else:
        dense = ToyNet(width=16, inner=48)
        left = _params(runner.model) / _params(dense)
    assert abs(left / target - 1) <= 0.02 and pruner.budget.met
    assert left == pytest.approx(pruner.budget.left)
    strengths = [r['demp/strength'] for r in scalars(runner, 'demp/strength')]
    met = strengths.index(0.0)
    assert met < 199 and set(strengths[:met]) == {1.0} and set(strengths[met:]) == {0.0}
    assert sum('budget met' in m for m in messages) == 1
    events = [m for m in messages if m.startswith('prune event')]
    assert 2 <= len(events) <= -(-(met + 1) // 5)  # none after it


def _params(model):
    return sum(p.numel() for p in model.parameters())


def test_an_event_removes_no_more_than_the_target_allows(tmp_path):
    most = killing(range(40), range(40))
    runner, _ = run(tmp_path, 10, most, budget=dict(flops=0.7))
    assert abs(pruner_of(runner).progress.left['macs'] / 0.7 - 1) <= 0.02


def test_a_budget_that_is_missed_says_so_with_the_nearest_point(tmp_path):
    runner, messages = run(tmp_path, 10, budget=dict(flops=0.5))
    assert pruner_of(runner).progress.left['macs'] == 1
    (text,) = (m for m in messages if 'budget missed' in m)
    assert '100.0% of the macs are left' in text and '50.0% were asked for' in text
    assert 'allow_live=True' in text


def test_live_channels_go_at_the_last_event_where_that_is_allowed(tmp_path):
    @torch.no_grad()
    def rank(runner):
        for block in runner.model.blocks:
            block.bn1.weight.copy_(torch.linspace(0.5, 1, 48))
        runner.model.norm.weight.fill_(2)

    runner, _ = run(tmp_path, 10, rank, allow_live=True, budget=dict(flops=0.6))
    pruner = pruner_of(runner)
    assert abs(pruner.progress.left['macs'] / 0.6 - 1) <= 0.02 and pruner.budget.met
    for block in runner.model.blocks:  # the smallest gammas went
        assert block.conv1.out_channels < 48 and block.bn1.weight.min() > 0.55
    assert runner.model.stem.out_channels == 16


@pytest.mark.parametrize('allow_live, widths', [(True, [32, 40]), (False, [40, 40])])
def test_live_channels_round_widths_to_the_nearest_multiple(tmp_path, allow_live, widths):
    kill = killing(range(14), range(10))  # 34 left: 32 is near; 38 left: 40 is near
    runner, _ = run(tmp_path, 5, kill, round_to=8, allow_live=allow_live)
    assert inner_widths(runner.model) == widths


def test_what_cannot_be_met_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(
        ValueError,
        match=r'budget flops=0.1 cannot be met: with every prunable channel gone, \d+.\d% of the '
        r'macs are left \(widths in multiples of 1, at least 12\)',
    ):
        run(tmp_path, 10, min_channels=12, budget=dict(flops=0.1))


# --- the loop by itself -------------------------------------------------------------------------


def controller(monkeypatch, latency=None, **settings):
    torch.manual_seed(0)
    model, inputs = ToyNet(width=16, inner=48), torch.randn(1, 3, 8, 8)

    def forward(m, b):
        return m(b)

    positions = count_positions(model, inputs, forward)
    if latency is not None:
        monkeypatch.setattr(
            budget,
            'measure_latency',
            lambda m, *a, **k: 1e-3 * latency(model_cost(m, positions).macs),
        )
    loop = Budget(BudgetSettings(**settings), PruneSettings())
    graph = trace_channel_graph(model, inputs, forward)
    loop.start(model, graph.groups, positions, inputs)
    return loop, model, graph, inputs, model_cost(model, positions).macs


def test_the_penalty_goes_up_behind_the_line_and_down_ahead_of_it(monkeypatch):
    loop, model, _, inputs, _ = controller(monkeypatch, flops=0.5)
    logger = logging.getLogger('test')
    loop.update(model, 0.4, last=False, logger=logger)
    assert loop.scale == pytest.approx(2.718281828 ** (2 * 0.25 / 0.5), rel=1e-6) or loop.scale == 2
    for _ in range(20):
        loop.update(model, 0.8, last=False, logger=logger)
    assert loop.scale == 64 and not loop.met
    loop._now['macs'] = loop._dense['macs']
    monkeypatch.setattr(loop, '_measure', lambda *a: dict(macs=0.6 * loop._dense['macs']))
    loop.update(model, 0.1, last=False, logger=logger)
    assert loop.scale == 32 and not loop.met
    resumed = Budget(BudgetSettings(flops=0.5), PruneSettings())
    resumed.restore(loop.state())
    assert (resumed.scale, resumed.met, resumed.left) == (loop.scale, loop.met, loop.left)


def test_a_latency_is_met_through_the_line_of_latency_over_macs(monkeypatch):
    dense = 2_000_000.0
    loop, model, graph, inputs, macs = controller(
        monkeypatch, latency=lambda macs: 4 + 6 * macs / dense, latency_ms=7.0
    )
    assert loop.target == pytest.approx(7 / (4 + 6 * macs / dense))
    keep = {n: torch.arange(g.channels) == 0 for n, g in graph.groups.items()}
    for _ in range(4):  # each event comes nearer
        masks, live = loop.limit(model, graph.groups, keep, last=False)
        assert not live
        apply_plan(model, plan_from_keep_masks(model, graph.groups, masks))
        loop.update(model, 0.5, last=False, logger=logging.getLogger('test'))
        graph = trace_channel_graph(model, inputs, lambda m, b: m(b))
        keep = {n: torch.arange(g.channels) == 0 for n, g in graph.groups.items()}
        if loop.met:
            break
    assert loop.met and abs(loop.left / loop.target - 1) <= 0.02


def test_a_latency_that_the_model_has_already_is_refused(monkeypatch):
    with pytest.raises(ValueError, match='budget latency_ms=7.0 is met by the model as it is'):
        controller(monkeypatch, latency=lambda macs: 5.0, latency_ms=7.0)
