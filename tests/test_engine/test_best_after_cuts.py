"""What was best before a cut of a budget counts no more after it."""

import pytest
import torch
from budget_runs import WIDE, choosing
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from runs import train
from toy_validation import validation


@METRICS.register_module(force=True)
class Falling(BaseMetric):
    """Of each validation, one after the other."""

    values = (0.9, 0.8, 0.3, 0.4, 0.2)

    def __init__(self):
        super().__init__()
        self._next = iter(self.values)

    def process(self, data_batch, data_samples):
        self.results += [0] * len(data_samples)

    def compute_metrics(self, results):
        accuracy = next(self._next)
        return dict(accuracy=accuracy, loss=1 - accuracy)


def validating(tmp_path, cut, **kwargs):
    """A run of five epochs of 4 iterations, validated after each, cut once after an iteration."""
    return train(
        tmp_path,
        [choosing(end=cut / 20, cuts=1), *kwargs.pop('hooks', ())],
        model=WIDE,
        epochs=5,
        **validation() | dict(val_evaluator=dict(type='Falling')) | kwargs,
    )


@pytest.mark.parametrize('rules', [dict(accuracy='greater'), dict(accuracy='greater', loss='less')])
def test_the_best_checkpoint_is_one_of_the_pruned_model(tmp_path, rules):
    best = dict(save_best=list(rules), rule=list(rules.values()))
    runner, _ = validating(tmp_path, 10, checkpoint=best)
    paths = list(tmp_path.glob('best_*.pth'))  # those of the dense model are gone
    assert {path.name for path in paths} == {f'best_{name}_epoch_4.pth' for name in rules}
    for path in paths:
        weights = torch.load(path, weights_only=False)['state_dict']
        assert {n: w.shape for n, w in weights.items()} == {
            n: w.shape for n, w in runner.model.state_dict().items()
        }


@pytest.mark.parametrize('monitor, rule', [('accuracy', 'greater'), ('loss', 'less')])
@pytest.mark.parametrize('patience, iters', [(2, 20), (1, 8)])
def test_patience_begins_anew_at_a_cut_and_a_run_that_ends_before_it_says_so(
    tmp_path, patience, iters, monitor, rule
):
    stop = dict(type='EarlyStoppingHook', monitor=monitor, rule=rule, patience=patience)
    runner, messages = validating(tmp_path, 10, hooks=[stop])
    assert runner.iter == iters
    early = '; the run has ended before the cut at iteration 10'
    assert any(m.endswith(early) for m in messages) == (iters == 8)


@pytest.mark.parametrize('cut, reduced', [(10, False), (18, True)])
def test_a_plateau_begins_anew_at_a_cut(tmp_path, cut, reduced):
    plateau = dict(type='ReduceOnPlateauLR', monitor='accuracy', rule='greater', patience=1)
    runner, _ = validating(tmp_path, cut, param_scheduler=plateau)
    group = runner.optim_wrapper.param_groups[0]
    assert (group['lr'] < group['initial_lr']) == reduced
