"""At a cut of DemPHook's budget readers take over from channels that go; not in others' methods."""

import torch
from runs import EMA
from test_budget_pruner import choosing, run

from mmpsbn.engine.demp import budget_pruner
from mmpsbn.engine.openmmlab import forward_tensors
from mmpsbn.pruning.verification import masked_outputs, probe_outputs


def first_cut(tmp_path, monkeypatch, **budget):
    """Just before the first cut: (weights of the model and of its average, those that read channels
    which go, the outputs with these channels masked, and as they are)."""
    cut = []

    original = budget_pruner.prune_channels

    def note(model, groups, keep_masks, **how):
        models = [model, *(average.model for average in how['averages'])]
        weights = [{k: p.detach().clone() for k, p in m.named_parameters()} for m in models]
        readers = {f'{r.layer}.weight' for n in keep_masks for r in groups[n].readers}
        masked = masked_outputs(model, groups, keep_masks, how['batch'], forward_tensors)
        as_they_are = probe_outputs(model, how['batch'], forward_tensors)
        cut.append((weights, readers, masked[0], as_they_are[0]))
        return original(model, groups, keep_masks, **how)

    monkeypatch.setattr(budget_pruner, 'prune_channels', note)
    run(tmp_path, hook=choosing(**budget), hooks=[EMA], iters=50)
    return cut[0]


def test_readers_take_over_in_the_model_and_its_average(tmp_path, monkeypatch):
    plain = first_cut(tmp_path / 'plain', monkeypatch, reconstruct=False)
    taken = first_cut(tmp_path / 'taken', monkeypatch)
    readers = plain[1]
    assert readers == taken[1]
    for before, after in zip(plain[0], taken[0]):
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed == readers
    intact = plain[3]
    assert (taken[2] - intact).norm() < 0.7 * (plain[2] - intact).norm()
