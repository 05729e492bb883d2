"""Runs that are killed anywhere and resumed end bit-equal to the run that never was.

A run dies by SIGKILL at a random line of the code that trains, prunes or saves, after a random
number of bytes of a checkpoint, or at a random time.
"""

import os
import random
import resource
import signal
import sys
from functools import cache

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS
from ranks import fork_context
from runs import EMA, average_of, demp, hook_of, pruner_of
from snapshots import assert_same
from toy import ToyNet, kill_channels, toy_runner

from mmpsbn.engine.checkpoints.pruned_structure import META_KEY

ITERATIONS = 24
# Ends of the source files in whose lines a run is killed.
CODE = dict(
    train=('runner/loops.py', 'optimizer_wrapper.py', 'ema_hook.py', 'step_perturbation.py'),
    prune=('online_pruner.py', 'demp/window.py', 'prune_event.py', 'prune.py', 'surgery.py'),
    save=('checkpoint_hook.py', 'runner/checkpoint.py', 'local_backend.py', 'pruned_structure.py'),
)


@MODELS.register_module(force=True)
class DropoutNet(ToyNet):
    """Training depends on torch's random state."""

    def forward(self, inputs, labels=None, mode='tensor'):
        if self.training:
            inputs = torch.nn.functional.dropout(inputs, 0.2)
        return super().forward(inputs, labels, mode)


@HOOKS.register_module(force=True)
class KillChannels(Hook):
    """Two channels die before the window of each prune event, one within: the next event has
    that. Notes the number of samples in the window after each iteration."""

    priority = 'HIGH'

    def __init__(self):
        self.samples = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        norm = runner.model.blocks[runner.iter // 6 % 2].bn1
        dead = {0: [0, 2], 4: [4]}.get(runner.iter % 6)
        if dead:
            kill_channels(norm, dead)
            with torch.no_grad():
                norm._parameters['bias'][dead] = -10.0

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.samples[runner.iter] = pruner_of(runner).state()['samples']


@HOOKS.register_module(force=True)
class LimitFiles(Hook):
    """From an iteration on, the process dies where a file grows beyond a size."""

    def __init__(self, iteration, size):
        self.iteration, self.size = iteration, size

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.size))


class LineCount:
    """Counts the lines that run in each part of the code, and dies at one of them."""

    def __init__(self, part=None, number=None):
        self.lines = dict.fromkeys(CODE, 0)
        self._part, self._number = part, number
        self._tracers = {part: self._tracer(part) for part in CODE}

    def _tracer(self, part):
        def trace(frame, event, arg):
            if event == 'line':
                self.lines[part] += 1
                if part == self._part and self.lines[part] == self._number:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        return trace

    def __call__(self, frame, event, arg):
        for part, files in CODE.items():
            if frame.f_code.co_filename.endswith(files):
                return self._tracers[part]
        return None


def train(work_dir, by_epoch, hooks, line, out):
    """One run, in a process of its own; writes what it came to. ``line``: None, or what LineCount
    is given, which takes its time."""
    hooks = [
        dict(type='KillChannels'),
        demp(penalty=0.01, noise=3e-3, num_samples=24),
        dict(EMA, momentum=0.5),
        *hooks,
    ]
    runner = toy_runner(
        work_dir,
        hooks,
        model=dict(type='DropoutNet', norm_cfg=dict(type='psBN')),
        checkpoint=dict(max_keep_ckpts=1),
        param_scheduler=dict(
            type='CosineAnnealingLR', by_epoch=False, begin=0, end=ITERATIONS, eta_min=1e-3
        ),
        resume=True,
        **(dict(epochs=ITERATIONS // 4) if by_epoch else dict(iters=ITERATIONS)),
    )
    torch.set_num_threads(1)
    count = None if line is None else LineCount(*line)
    sys.settrace(count)
    runner.train()
    sys.settrace(None)
    last = runner.message_hub.get_info('last_ckpt')
    checkpoint = torch.load(last, weights_only=False)
    torch.save(
        dict(
            model=runner.model.state_dict(),
            average=average_of(runner).state_dict(),
            optimizer=runner.optim_wrapper.state_dict(),
            meta=checkpoint['meta'][META_KEY],
            samples=hook_of(runner, KillChannels).samples,
            lines=count and count.lines,
            checkpoint_size=os.path.getsize(last),
        ),
        out,
    )


def start(work_dir, by_epoch, hooks=(), line=None):
    out = f'{work_dir}/final.pth'
    process = fork_context().Process(target=train, args=(str(work_dir), by_epoch, hooks, line, out))
    process.start()
    return process, out


def finish(work_dir, by_epoch, line=None):
    process, out = start(work_dir, by_epoch, line=line)
    process.join()
    assert process.exitcode == 0
    return torch.load(out, weights_only=False)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """What a run comes to that is never killed, by_epoch or not."""
    return cache(lambda by_epoch: finish(tmp_path_factory.mktemp('whole'), by_epoch, ()))


def assert_equal_end(final, expected):
    for key in ('model', 'average', 'optimizer', 'meta'):
        assert_same(final[key], expected[key])
    assert final['samples'].items() <= expected['samples'].items()


@pytest.mark.parametrize('by_epoch', [True, False])
def test_the_runs_lose_channels_at_several_events(whole, by_epoch):
    kept = whole(by_epoch)['meta']['plan']['tensors']
    widths = [len(kept[f'blocks.{i}.bn1.weight']['kept']['0']) for i in (0, 1)]
    assert widths == [6, 7] and all(whole(by_epoch)['lines'].values())


def draw_points():
    """One of each part of the code by default, the others with the slow tests."""
    rng = random.Random(4)
    for kind, times in dict(train=3, prune=4, save=4, bytes=2, time=1).items():
        for i in range(times):
            marks = () if i == 0 and kind in CODE else pytest.mark.slow
            place = rng.random() < 0.5, rng.random()
            yield pytest.param(kind, *place, id=f'{kind}-{i}', marks=marks)


@pytest.mark.parametrize('kind, by_epoch, fraction', draw_points())
def test_a_killed_run_ends_as_the_one_never_killed(tmp_path, whole, kind, by_epoch, fraction):
    expected = whole(by_epoch)
    if kind in CODE:
        number = 1 + int(fraction * expected['lines'][kind])
        process, _ = start(tmp_path, by_epoch, line=(kind, number))
        process.join()
        assert process.exitcode == -signal.SIGKILL
    elif kind == 'bytes':
        size = int(expected['checkpoint_size'] * (0.3 + 0.7 * fraction))  # no log is as large
        limit = dict(type='LimitFiles', iteration=7, size=size)
        process, _ = start(tmp_path, by_epoch, hooks=[limit])
        process.join()
        assert process.exitcode == -signal.SIGXFSZ
    else:
        process, _ = start(tmp_path, by_epoch)
        process.join(0.8 * fraction)
        process.kill()
        process.join()
    assert_equal_end(finish(tmp_path, by_epoch), expected)


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_the_one_never_killed(tmp_path, whole):
    expected, kills = whole(False), 0
    while True:
        line = ('train', expected['lines']['train'] // 3)
        process, out = start(tmp_path, False, line=line)
        process.join()
        if process.exitcode == 0:
            break
        kills += 1
    assert kills >= 2
    assert_equal_end(torch.load(out, weights_only=False), expected)
