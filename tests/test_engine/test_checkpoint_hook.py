"""A failing or killed write leaves the previous checkpoint loadable."""

import errno
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook, checkpoint_hook
from mmengine.registry import HOOKS
from mmengine.runner import find_latest_checkpoint
from runs import hook_of, resume_from
from snapshots import assert_same
from toy import ToyNet, toy_runner

from mmpsbn.engine import SparsityHook
from mmpsbn.engine.checkpoints.checkpoint_hook import SafeCheckpointHook, _RemoveLaterBackend
from mmpsbn.engine.files import AtomicLocalBackend

WATCH = dict(type='SparsityHook')  # with a hook of mmpsbn, checkpoints are safe


def safe_runner(work_dir, **kwargs):
    return toy_runner(work_dir, [WATCH], **kwargs)


def checkpoints(folder):
    return sorted(p.name for p in Path(folder).glob('*.pth*'))


def fail_at_epoch(monkeypatch, epoch):
    """Let the disk be full when the checkpoint of an epoch is synced to it."""
    synced = []

    def full(fd):
        synced.append(fd)
        if len(synced) == epoch:
            raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)


NAMES = ['CheckpointHook', 'mmengine.hooks.CheckpointHook', CheckpointHook]


@pytest.mark.parametrize('max_keep, kind', [(1, NAMES[0]), (2, NAMES[1]), (-1, NAMES[2])])
def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch, max_keep, kind):
    fail_at_epoch(monkeypatch, 3)
    runner = safe_runner(tmp_path, checkpoint=dict(type=kind, max_keep_ckpts=max_keep))
    with pytest.raises(OSError, match='No space left'):
        runner.train()
    assert 'epoch_2.pth' in checkpoints(tmp_path)
    assert 'epoch_3.pth' not in checkpoints(tmp_path)
    assert not [name for name in checkpoints(tmp_path) if name.endswith('.part')]
    latest = find_latest_checkpoint(str(tmp_path))
    assert latest.endswith('epoch_2.pth')
    monkeypatch.undo()
    safe_runner(tmp_path, resume=True).train()
    assert 'epoch_4.pth' in checkpoints(tmp_path)


class Own(CheckpointHook):
    """MMEngine's, under another name."""


@HOOKS.register_module(force=True)
class OwnWatch(SparsityHook):
    """Somebody's, derived from ours."""


@pytest.mark.parametrize(
    'hooks, kind, stays',
    [
        ([WATCH], CheckpointHook, SafeCheckpointHook),
        ([dict(type='OwnWatch')], CheckpointHook, SafeCheckpointHook),
        ([WATCH], Own, Own),
        ([], CheckpointHook, CheckpointHook),
        ([dict(type='EMAHook')], CheckpointHook, CheckpointHook),
    ],
)
def test_with_a_hook_of_ours_a_checkpoint_hook_becomes_safe_and_no_subclass(
    tmp_path, hooks, kind, stays
):
    runner = toy_runner(tmp_path, hooks, checkpoint=dict(type=kind), epochs=1)
    runner.train()
    assert [type(h) for h in runner.hooks if isinstance(h, CheckpointHook)] == [stays]
    assert checkpoints(tmp_path) == ['epoch_1.pth']


def test_other_backends_keep_their_own_ways(tmp_path):
    backend = dict(backend_args=dict(backend='local'))
    runner = safe_runner(tmp_path, checkpoint=backend, epochs=1)
    runner.train()
    hook = hook_of(runner, SafeCheckpointHook)
    assert type(hook.file_backend) is LocalBackend


@pytest.mark.parametrize('call', ['fsync', 'replace'])
@pytest.mark.parametrize('stop', [KeyboardInterrupt, SystemExit])
def test_an_interrupted_write_keeps_the_old_file_and_no_part(tmp_path, monkeypatch, call, stop):
    path = tmp_path / 'x.pth'
    AtomicLocalBackend().put(b'old', path)

    def interrupted(*_):
        raise stop

    monkeypatch.setattr(os, call, interrupted)
    with pytest.raises(stop):
        AtomicLocalBackend().put(b'new', path)
    assert path.read_bytes() == b'old' and checkpoints(tmp_path) == ['x.pth']


def test_the_pointer_to_the_last_checkpoint_is_replaced_whole(tmp_path, monkeypatch):
    safe_runner(tmp_path, epochs=2).train()
    pointer = tmp_path / 'last_checkpoint'

    def open_and_fail(path, mode):
        """MMEngine opens the pointer, which empties it, and the disk is full."""
        open(path, mode).close()
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(checkpoint_hook, 'open', open_and_fail, raising=False)
    with pytest.raises(OSError, match='No space left'):
        safe_runner(tmp_path, resume=True).train()
    assert pointer.read_text().endswith('epoch_2.pth')
    monkeypatch.undo()
    runner = safe_runner(tmp_path, resume=True)
    runner.train()
    assert pointer.read_text().endswith('epoch_4.pth')
    assert not os.path.exists(os.path.join(runner.log_dir, 'last_checkpoint'))


class RandomNet(ToyNet):
    """Adds random numbers of all three generators to its inputs in training."""

    drawn: list = []

    def forward(self, inputs, labels=None, mode='tensor'):
        if self.training:
            self.drawn.append(float(torch.rand(1)) + random.random() + float(np.random.rand()))
            inputs = inputs + self.drawn[-1]
        return super().forward(inputs, labels, mode)


@pytest.mark.parametrize(
    'length, checkpoint', [(dict(epochs=4), 'epoch_2'), (dict(iters=16), 'iter_10')]
)
def test_a_resumed_run_goes_on_with_the_random_numbers_of_the_first(tmp_path, length, checkpoint):
    RandomNet.drawn.clear()
    whole = safe_runner(tmp_path / 'whole', model=RandomNet(), **length)
    whole.train()
    assert len(set(RandomNet.drawn)) == 16, 'epochs repeat each other'
    go_on = resume_from(tmp_path / f'whole/{checkpoint}.pth')
    resumed = safe_runner(tmp_path / 'resumed', model=RandomNet(), **go_on, **length)
    resumed.train()
    assert_same(resumed.model.state_dict(), whole.model.state_dict())


def test_a_second_training_removes_after_it_has_written_too(tmp_path):
    runner = safe_runner(tmp_path, epochs=1)
    runner.train()
    hook = hook_of(runner, CheckpointHook)
    hook.before_train(runner)
    assert type(hook.file_backend) is _RemoveLaterBackend
