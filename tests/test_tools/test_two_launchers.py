"""tools/dist_train.sh on two machines, played by two launchers on one; and a rank that dies."""

import os
import socket
import subprocess
import sys

import pytest
import torch
from small_detector import ROOT
from snapshots import assert_same

PARTS = """
import os, signal
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS
from toy import ToyData, kill_channels
from mmpsbn.engine import DemPHook
from mmpsbn.engine.runner_parts import bare_model

DATASETS.register_module(module=ToyData)

@HOOKS.register_module()
class Prepare(Hook):
    priority = 'LOWEST'

    def before_train(self, runner):
        if runner.iter == 0:
            kill_channels(bare_model(runner).blocks[0].bn1, [1, 3])
        if get_rank() == 1 and 'DIES' in os.environ:
            hook = next(hook for hook in runner.hooks if isinstance(hook, DemPHook))
            hook.pruner.prune = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""
CONFIG = """
custom_imports = dict(imports=['parts'], allow_failed_imports=False)
default_scope = 'mmengine'
model = dict(type='ToyNet', norm_cfg=dict(type='psSyncBN'))
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    dataset=dict(type='ToyData'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
)
train_cfg = dict(by_epoch=True, max_epochs=3)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9))
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1))
env_cfg = dict(dist_cfg=dict(backend='gloo', timeout=60))
randomness = dict(seed=0)
noise = dict(peak_std=1e-3)
custom_hooks = [
    dict(type='DemPHook', noise=noise, prune=dict(interval=6, num_samples=16)),
    dict(type='Prepare'),
]
"""


@pytest.fixture
def launch(tmp_path):
    """Start tools/dist_train.sh with a config of two ranks in all; returns the process."""
    (tmp_path / 'parts.py').write_text(PARTS)
    (tmp_path / 'config.py').write_text(CONFIG)

    def launch(name, ranks, *options, **env):
        paths = [str(tmp_path), str(ROOT / 'tests'), os.environ.get('PYTHONPATH', '')]
        env = dict(os.environ, PYTHON=sys.executable, OMP_NUM_THREADS='1', **env)
        env |= dict(PYTHONPATH=':'.join(paths), CUDA_VISIBLE_DEVICES='')
        command = ['bash', str(ROOT / 'tools/dist_train.sh'), str(tmp_path / 'config.py'), ranks]
        command += ['--work-dir', str(tmp_path / name), *options]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return subprocess.Popen(command, env=env, cwd=tmp_path, **pipes)

    return launch


def ended(process):
    """The exit code, and all that it said."""
    said, _ = process.communicate(timeout=400)
    return process.returncode, said


def weights(folder):
    return torch.load(folder / 'epoch_3.pth', weights_only=False)['state_dict']


def assert_ended_well(*processes):
    for process in processes:
        code, said = ended(process)
        assert code == 0, said[-3000:]


@pytest.mark.slow
def test_a_dead_rank_ends_all_and_two_launchers_train_what_the_resumed_run_comes_to(
    launch, tmp_path
):
    code, said = ended(launch('one', '2', DIES='1'))
    assert code != 0
    last = [line for line in said.splitlines() if 'go on from the last checkpoint' in line]
    assert last, said[-3000:]
    assert not (tmp_path / 'one/epoch_2.pth').exists()
    assert_ended_well(launch('one', '2', '--resume'))
    whole = weights(tmp_path / 'one')
    assert whole['blocks.0.conv1.weight'].shape[0] == 10

    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        place = dict(NNODES='2', MASTER_ADDR='127.0.0.1', PORT=str(s.getsockname()[1]))
    assert_ended_well(*[launch('two', '1', NODE_RANK=str(i), **place) for i in (0, 1)])
    assert_same(weights(tmp_path / 'two'), whole)
