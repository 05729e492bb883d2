"""What MMEngine promises of its runner and hooks holds with mmpsbn imported and its hooks in the
run: each run is compared with one by MMEngine's own checkpoint hook and without our hooks."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS, METRICS
from mmengine.runner import Runner, find_latest_checkpoint
from runs import state_of
from snapshots import assert_same
from toy import toy_runner
from toy_validation import validation

OURS = [dict(type='SparsityHook', interval=1), dict(type='PrunedCheckpointHook')]


@METRICS.register_module(force=True)
class Scores(BaseMetric):
    """Best at the second validation by ``accuracy``, and at the third by ``loss``."""

    values = ((0.1, 3.0), (0.9, 2.0), (0.5, 1.0), (0.4, 4.0))

    def __init__(self):
        super().__init__()
        self.number = 0

    def process(self, data_batch, data_samples):
        self.results += [0] * len(data_samples)

    def compute_metrics(self, results):
        accuracy, loss = self.values[self.number]
        self.number += 1
        return dict(accuracy=accuracy, loss=loss)


class MMEnginesOwn(CheckpointHook):
    """A class that mmpsbn does not know."""


def train(folder, *, ours, options, hooks=(), **kwargs):
    """A run whose files are in ``folder/net``, and with ``out_dir`` in ``folder/elsewhere/net``."""
    options = dict(options)
    if 'out_dir' in options:
        options['out_dir'] = str(folder / options['out_dir'])
    runner = toy_runner(
        folder / 'net',
        [*hooks, *(OURS if ours else ())],
        **{**validation(), 'val_evaluator': dict(type='Scores'), **kwargs},
    )
    hook = HOOKS.build(dict(type='CheckpointHook', **options)) if ours else MMEnginesOwn(**options)
    runner._hooks = [hook if isinstance(h, CheckpointHook) else h for h in runner._hooks]
    runner.train()
    return runner


def files(folder):
    """Checkpoints and pointers by relative name, without the hashes of published ones."""
    found = {}
    for path in sorted([*folder.rglob('*.pth*'), *folder.rglob('last_checkpoint')]):
        name = re.sub(r'-[0-9a-f]{8}\.pth$', '-HASH.pth', str(path.relative_to(folder)))
        found[name] = path
    return found


def of_checkpoints(runner, folder):
    """What the message hub, and so a resumed run, knows of them."""
    info = runner.message_hub.runtime_info
    names = [n for n in info if re.match('best_|last_ckpt|keep_ckpt_ids', n)]
    return {n: str(info[n]).replace(str(folder), '') for n in names}


SCHEDULE = dict(param_scheduler=dict(type='LinearLR', start_factor=0.5, end=3))


@pytest.mark.parametrize(
    'options, kwargs',
    [
        (dict(interval=3), SCHEDULE),
        (dict(interval=1, save_begin=2, filename_tmpl='net_{}.pth'), {}),
        (dict(interval=1, max_keep_ckpts=2), SCHEDULE),
        (dict(interval=3, by_epoch=False, max_keep_ckpts=2), {}),
        (dict(interval=1, out_dir='elsewhere', max_keep_ckpts=1), {}),
        (dict(interval=1, save_best='auto', max_keep_ckpts=1), {}),
        (dict(interval=2, save_best='accuracy', out_dir='elsewhere'), {}),
        (
            dict(interval=2, save_best=['accuracy', 'loss'], published_keys=['meta', 'state_dict']),
            {},
        ),
        (dict(interval=2, save_best='accuracy'), dict(hooks=[dict(type='EMAHook', momentum=0.3)])),
    ],
)
def test_checkpoints_are_those_of_mmengine(tmp_path, options, kwargs):
    runs = {}
    for ours in (False, True):
        folder = tmp_path / str(ours)
        runs[ours] = train(folder, ours=ours, options=options, **kwargs), folder, files(folder)
    (theirs, their_folder, expected), (mine, folder, found) = runs.values()
    assert list(found) == list(expected)
    assert_same(state_of(mine), state_of(theirs))
    assert of_checkpoints(mine, folder) == of_checkpoints(theirs, their_folder)
    latest = find_latest_checkpoint(str(folder / 'net'))
    assert latest == find_latest_checkpoint(str(their_folder / 'net')).replace(
        str(their_folder), str(folder)
    )
    for name, path in found.items():
        if name.endswith('last_checkpoint'):
            continue
        ours, reference = (torch.load(p, weights_only=False) for p in (path, expected[name]))
        assert set(ours) == set(reference), name
        for key in {'state_dict', 'ema_state_dict', 'optimizer'} & set(ours):
            assert_same(ours[key], reference[key])
        for key in ('epoch', 'iter', 'seed'):
            assert ours['meta'][key] == reference['meta'][key], (name, key)


@pytest.mark.parametrize('trainable', [False, True])
@pytest.mark.parametrize('mode', ['val', 'test'])
def test_validation_and_test_need_no_training(tmp_path, mode, trainable):
    kwargs = {key.replace('val_', f'{mode}_'): value for key, value in validation().items()}
    if trainable:
        runner = toy_runner(tmp_path, OURS, **kwargs)
    else:
        kwargs |= dict(work_dir=str(tmp_path), custom_hooks=list(OURS), log_level='ERROR')
        name = f'alone_{mode}'
        runner = Runner(model=dict(type='ToyNet'), experiment_name=name, **kwargs)
    assert 0 <= getattr(runner, mode)()['accuracy'] <= 1
    assert 'SafeCheckpointHook' not in runner.get_hooks_info()
    assert not list(Path(tmp_path).rglob('*.pth'))


def test_a_model_can_be_validated_between_trainings(tmp_path):
    runner = train(tmp_path, ours=True, options=dict(interval=4), **validation())
    assert 0 <= runner.val()['accuracy'] <= 1
    assert list(files(tmp_path)) == ['net/epoch_4.pth', 'net/last_checkpoint']


def stages(runner):
    """Stage -> (priority, hook) in the order of the calls, as the runner tells at its start."""
    found = {}
    for block in filter(str.strip, runner.get_hooks_info().split(' -------------------- ')):
        stage, *lines = block.strip().splitlines()
        found[stage.rstrip(':')] = [re.match(r'\((\w+) *\) (\w+)', line).groups() for line in lines]
    return found


def test_the_runner_lists_hooks_by_stage_and_priority(tmp_path):
    hooks = [
        dict(type='SparsityHook', priority='VERY_LOW'),  # a config may set it
        dict(type='EMAHook'),
        dict(type='DemPHook'),
        dict(type='SparsityHook'),
    ]
    listed = stages(toy_runner(tmp_path, hooks))
    assert listed['after_train_iter'] == [
        ('VERY_HIGH', 'RuntimeInfoHook'),
        ('ABOVE_NORMAL', 'DemPHook'),
        ('NORMAL', 'IterTimerHook'),
        ('NORMAL', 'EMAHook'),
        ('BELOW_NORMAL', 'LoggerHook'),
        ('LOW', 'ParamSchedulerHook'),
        ('LOW', 'SparsityHook'),
        ('VERY_LOW', 'CheckpointHook'),
        ('VERY_LOW', 'SparsityHook'),
    ]
    # what loads a pruned structure comes before what copies the weights
    loading = [name for _, name in listed['after_load_checkpoint']]
    assert loading.index('DemPHook') < loading.index('EMAHook')
