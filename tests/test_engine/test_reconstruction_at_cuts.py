"""At a cut of DemPHook's budget readers take over from the channels that go."""

import pytest
import torch
from budget_runs import choosing, run
from runs import EMA, inner_widths, train
from test_late_layers import HoldsAll, arguments

from mmpsbn.engine.demp import budget_pruner
from mmpsbn.engine.openmmlab import forward_tensors
from mmpsbn.engine.runner_parts import bare_model
from mmpsbn.pruning.verification import masked_outputs, probe_outputs


@pytest.fixture
def first_cut(tmp_path, monkeypatch):
    """Runs with other budgets; gives of each just before its first cut: (weights of the model and
    of its average, those that read channels which go, the outputs with these channels masked, and
    as they are)."""

    def of(**budget):
        cut, prune = [], budget_pruner.prune_channels

        def note(model, groups, keep_masks, **how):
            models = [model, *how['averages']]
            weights = [{k: p.detach().clone() for k, p in m.named_parameters()} for m in models]
            readers = {f'{r.layer}.weight' for n in keep_masks for r in groups[n].readers}
            masked = masked_outputs(model, groups, keep_masks, how['batch'], forward_tensors)
            as_they_are = probe_outputs(model, how['batch'], forward_tensors)
            cut.append((weights, readers, masked[0], as_they_are[0]))
            return prune(model, groups, keep_masks, **how)

        with monkeypatch.context() as patch:
            patch.setattr(budget_pruner, 'prune_channels', note)
            run(
                tmp_path / str(len(list(tmp_path.iterdir()))),
                hook=choosing(**budget),
                hooks=[EMA],
                iters=50,
            )
        return cut[0]

    return of


def test_readers_take_over_in_the_model_and_its_average(first_cut):
    plain, taken = first_cut(reconstruct=False), first_cut()
    readers = plain[1]
    assert readers == taken[1]
    for before, after in zip(plain[0], taken[0]):
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed == readers
    intact = plain[3]
    assert (taken[2] - intact).norm() < 0.7 * (plain[2] - intact).norm()


def test_what_all_ranks_have_read_counts(first_cut, monkeypatch):
    plain = first_cut(reconstruct=False)
    # as if they had all seen nothing
    monkeypatch.setattr(budget_pruner, 'reduced', lambda tensor, op: torch.zeros_like(tensor))
    for before, after in zip(plain[0], first_cut()[0]):
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_log_names_layers_that_take_nothing_over(tmp_path, monkeypatch):
    def warnings_of(folder):
        _, messages = run(tmp_path / folder, iters=50)
        return [m for m in messages if 'is not taken over' in m]

    assert warnings_of('told') == []
    monkeypatch.setattr(budget_pruner, 'reduced', lambda tensor, op: tensor * torch.nan)
    first = warnings_of('untold')[0]
    assert first.startswith('blocks.0.conv1, ') and 'NaN or infinity, or no number but 0' in first


def test_an_event_removes_nothing_where_late_layers_hold_everything(tmp_path):
    late = arguments(range(3, 999), kind=HoldsAll)
    del late['epochs']
    runner, messages = train(tmp_path, [choosing()], iters=100, **late)
    assert inner_widths(runner.model) == [12, 12]
    assert any('this prune event is skipped' in m for m in messages)


def test_no_layer_is_watched_after_the_run(tmp_path):
    runner, _ = run(tmp_path, iters=50)
    assert not [m for m in bare_model(runner).modules() if m._forward_pre_hooks]
