"""SnapshotEnsembleHook: the nets at the ends of the last rounds, together."""

import json

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import METRICS, MODELS
from mmpretrain.structures import DataSample
from ranks import ON_RANKS, run_on_ranks
from test_rounds_hook import restarts, table
from toy import ToyData, ToyNet, toy_runner
from toy_validation import validation

from mmpsbn.engine import SnapshotEnsembleHook
from mmpsbn.engine.rounds.snapshot_ensemble import predict_as_ensemble
from mmpsbn.engine.runner_parts import bare_model

HOOK = dict(type='SnapshotEnsembleHook', num_snapshots=2)


@MODELS.register_module(force=True)
class ToyClassifier(ToyNet):
    """Predicts as mmpretrain's classifiers do, into the samples it is given."""

    def forward(self, inputs, labels=None, mode='tensor'):
        out = super().forward(inputs, labels, mode)
        if mode != 'predict':
            return out
        if not hasattr(self, 'samples') or len(self.samples) != len(inputs):
            self.samples = [DataSample() for _ in inputs]
        return [
            sample.set_pred_score(score).set_pred_label(score.argmax())
            for sample, score in zip(self.samples, out.softmax(1))
        ]


@METRICS.register_module(force=True)
class LabelAccuracy(BaseMetric):
    """In percent; keeps the scores it was given."""

    scores: list = []

    def process(self, data_batch, data_samples):
        for sample, label in zip(data_samples, data_batch['labels']):
            LabelAccuracy.scores.append(sample['pred_score'])
            self.results.append(bool(sample['pred_label'] == label))

    def compute_metrics(self, results):
        return dict(top1=100 * sum(results) / len(results))


def build(work_dir, *, periods=(1, 1, 1), hook=HOOK, hooks=(), shuffle=False, val=True, **kwargs):
    by_epoch = 'iters' not in kwargs
    if by_epoch:
        kwargs['epochs'] = sum(periods)
    kwargs.setdefault('model', dict(type='ToyClassifier', norm_cfg=dict(type='psBN')))
    if val:
        kwargs = {**validation(), 'val_evaluator': dict(type='LabelAccuracy'), **kwargs}
    return toy_runner(
        work_dir,
        [dict(hook), dict(type='RoundsHook', shuffle=shuffle), *hooks],
        param_scheduler=restarts(periods, by_epoch),
        **kwargs,
    )


def expected_scores(work_dir, numbers):
    """From the files alone."""
    scores = []
    for number in numbers:
        net = ToyClassifier(norm_cfg=dict(type='psBN')).eval()
        path = work_dir / f'round_{number}.pth'
        net.load_state_dict(torch.load(path, weights_only=False)['state_dict'])
        with torch.no_grad():
            scores.append(net(ToyData(seed=1).inputs).softmax(1))
    return torch.stack(scores).mean(0)


def accuracy_of(scores):
    """In percent, on the data of the validation."""
    hits = (scores.argmax(1) == ToyData(seed=1).labels).float().mean()
    return {'top1': pytest.approx(100 * hits.item())}


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(),
        dict(iters=10, periods=[4, 3, 3]),
        dict(hooks=[dict(type='PrunedCheckpointHook')]),  # as tools/train.py adds it to every run
    ],
)
def test_the_last_snapshots_average_their_probabilities(tmp_path, kwargs):
    runner = build(tmp_path, **kwargs)
    runner.train()
    record = json.loads((tmp_path / 'ensemble.json').read_text())
    assert record['snapshots'] == ['round_2.pth', 'round_3.pth']
    expected = expected_scores(tmp_path, [2, 3])
    torch.testing.assert_close(torch.stack(LabelAccuracy.scores[-32:]), expected)
    assert record['metrics'] == accuracy_of(expected)
    assert (tmp_path / 'round_1.pth').exists()
    scalars = (tmp_path / runner.timestamp / 'vis_data/scalars.json').read_text()
    assert f'"ensemble/top1": {record["metrics"]["top1"]}' in scalars


def test_one_snapshot_is_the_last_round(tmp_path):
    build(tmp_path, hook=dict(HOOK, num_snapshots=1)).train()
    record = json.loads((tmp_path / 'ensemble.json').read_text())
    assert record['metrics'] == table(tmp_path)[-1]['metrics']


def test_the_model_and_the_table_of_rounds_stay(tmp_path):
    build(tmp_path / 'with').train()
    plain = build(tmp_path / 'without', hook=dict(type='SparsityHook'))
    plain.train()
    assert table(tmp_path / 'with') == table(tmp_path / 'without')
    saved = torch.load(tmp_path / 'with/epoch_3.pth', weights_only=False)['state_dict']
    for name, value in plain.model.state_dict().items():
        assert torch.equal(saved[name], value), name


def test_snapshots_are_what_was_validated(tmp_path):
    """With averaged weights, these."""
    build(tmp_path, hooks=[dict(type='EMAHook', momentum=0.5)]).train()
    assert table(tmp_path)[-1]['metrics'] == accuracy_of(expected_scores(tmp_path, [3]))
    state = torch.load(tmp_path / 'epoch_3.pth', weights_only=False)['state_dict']
    snapshot = torch.load(tmp_path / 'round_3.pth', weights_only=False)
    assert torch.equal(state['fc.weight'], snapshot['state_dict']['fc.weight'])
    assert 'optimizer' not in snapshot


def stopped_after(work_dir, epoch):
    (work_dir / 'last_checkpoint').write_text(str(work_dir / f'epoch_{epoch}.pth'))
    for number in range(epoch + 1, 4):
        (work_dir / f'round_{number}.pth').unlink()


@pytest.mark.parametrize('epoch', [1, 2, 3])
def test_a_resumed_run_averages_the_same(tmp_path, epoch):
    build(tmp_path).train()
    record = (tmp_path / 'ensemble.json').read_text()
    (tmp_path / 'ensemble.json').unlink()
    stopped_after(tmp_path, epoch)
    build(tmp_path, resume=True).train()
    assert (tmp_path / 'ensemble.json').read_text() == record


def test_a_resumed_run_without_a_snapshot_says_so_at_once(tmp_path):
    build(tmp_path).train()
    (tmp_path / 'round_1.pth').unlink()
    stopped_after(tmp_path, 2)
    build(tmp_path, resume=True).train()  # round 1 is not among the last two
    (tmp_path / 'round_2.pth').unlink()
    stopped_after(tmp_path, 2)
    with pytest.raises(FileNotFoundError, match='round_2.pth is missing: resume in the work'):
        build(tmp_path, resume=True).train()


def test_members_may_write_into_the_same_samples():
    samples = [DataSample(), DataSample()]

    class Member:
        def __init__(self, score):
            self.score = torch.tensor(score)

        def val_step(self, data_batch):
            return [sample.set_pred_score(self.score) for sample in samples]

    members = [Member([1.0, 0.0, 0.0]), Member([0.9, 0.1, 0.0]), Member([0.0, 0.8, 0.2])]
    out = predict_as_ensemble(members, {})
    for sample in out:
        torch.testing.assert_close(sample.pred_score, torch.tensor([1.9, 0.9, 0.2]) / 3)
        assert sample.pred_label.tolist() == [0]


@pytest.mark.parametrize(
    'kwargs, error, message',
    [
        (dict(hook=dict(HOOK, num_snapshots=4)), ValueError, 'num_snapshots=4 needs as many.*3'),
        (dict(val=False), ValueError, 'evaluates with val_dataloader and val_evaluator'),
        (dict(hooks=[dict(type='DemPHook')]), ValueError, 'DemPHook prunes while training'),
    ],
)
def test_runs_it_does_not_fit(tmp_path, kwargs, error, message):
    with pytest.raises(error, match=message):
        build(tmp_path, **kwargs).train()


@pytest.mark.parametrize('number', [0, True, 1.5, None])
def test_bad_settings(number):
    with pytest.raises(ValueError, match='num_snapshots must be an int >= 1, got'):
        SnapshotEnsembleHook(num_snapshots=number)


def test_a_model_without_probabilities_is_refused_at_the_first_validation(tmp_path):
    other = dict(model=dict(type='ToyNet'), val_evaluator=dict(type='ToyAccuracy'))
    runner = build(tmp_path, **other)
    with pytest.raises(TypeError, match='averages class probabilities.*got predictions.*Tensor'):
        runner.train()
    assert runner.epoch == 1


def on_a_rank(work_dir):
    runner = build(work_dir, shuffle=True, **ON_RANKS)
    runner.train()
    return {name: p.detach() for name, p in bare_model(runner).named_parameters()}


def test_on_two_ranks(tmp_path):
    """Each validates half of the data; the numbers are of all of them."""
    first, second = run_on_ranks(on_a_rank, 2, tmp_path, str(tmp_path))
    assert all(torch.equal(first[name], second[name]) for name in first)
    rows = table(tmp_path)
    assert [row['round'] for row in rows] == [1, 2, 3]
    assert all(row['prunable'] == 32 and 'top1' in row['metrics'] for row in rows)
    record = json.loads((tmp_path / 'ensemble.json').read_text())
    assert record['metrics'] == accuracy_of(expected_scores(tmp_path, [2, 3]))


def test_a_run_that_stops_early_ends_without_an_ensemble(tmp_path):
    class Stop(Hook):
        def after_train_epoch(self, runner):
            runner.train_loop.stop_training = True

    runner = build(tmp_path, hooks=[Stop()])
    runner.train()
    assert runner.iter == 4 and (tmp_path / 'round_1.pth').exists()
    assert not (tmp_path / 'ensemble.json').exists()
