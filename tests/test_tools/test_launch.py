import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmpsbn.commands import launch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def coco(tmp_path):
    """A config of mmdet's shape and the data it names."""
    root = tmp_path / 'data'
    (root / 'annotations').mkdir(parents=True)
    (root / 'images').mkdir()
    (root / 'annotations/train.json').touch()
    dataset = dict(
        type='CocoDataset',
        data_root=f'{root}/',
        ann_file='annotations/train.json',
        data_prefix=dict(img='images/'),
    )
    return Config(
        dict(
            default_scope='mmdet',
            train_dataloader=dict(
                dataset=dict(
                    type='RepeatDataset',
                    times=2,
                    dataset=dict(type='ConcatDataset', datasets=[dataset, dict(dataset)]),
                )
            ),
            val_dataloader=None,
            val_evaluator=dict(type='CocoMetric', ann_file=f'{root}/annotations/train.json'),
        )
    )


def missing(cfg, splits=('train', 'val')):
    with pytest.raises(FileNotFoundError) as error:
        launch.check_data_paths(cfg, splits=splits)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_data_that_is_there(coco):
    launch.check_data_paths(coco, splits=('train', 'val', 'test'))


def test_missing_data_names_path_and_key_inside_wrappers(coco):
    part = coco.train_dataloader.dataset.dataset.datasets[1]
    part.ann_file = 'annotations/none.json'
    assert missing(coco).startswith(
        f"'{part.data_root}annotations/none.json' "
        '(train_dataloader.dataset.dataset.datasets.1.ann_file) does not exist'
    )
    part.ann_file, part.data_prefix = '', dict(img='no_images/')
    assert 'datasets.1.data_prefix.img' in missing(coco)
    part.data_root = '/nonexistent/'
    assert missing(coco).startswith(
        "'/nonexistent/' (train_dataloader.dataset.dataset.datasets.1.data_root)"
    )
    launch.check_data_paths(coco, splits=('val',))


def test_missing_data_of_an_evaluator(coco):
    coco.val_dataloader = coco.train_dataloader
    coco.val_evaluator = [dict(type='CocoMetric', ann_file='/nonexistent/val.json')]
    assert "'/nonexistent/val.json' (val_evaluator.0.ann_file)" in missing(coco)


def test_missing_data_says_how_to_get_it(coco):
    coco.train_dataloader.dataset = dict(type='CocoDataset', data_root='/nonexistent/data/coco/')
    assert 'mim download mmdet --dataset coco2017' in missing(coco)
    coco.data_hint = 'ask Maxwell'
    assert missing(coco).endswith('does not exist: ask Maxwell')


@pytest.mark.parametrize(
    'change',
    [
        dict(data_root='s3://bucket/coco/'),
        dict(data_root='/nonexistent', backend_args=dict(backend='petrel')),
        dict(data_root='/nonexistent', type='mmpretrain.CIFAR10'),
    ],
)
def test_remote_data_and_data_sets_that_download_themselves_pass(coco, change):
    pytest.importorskip('mmpretrain').utils.register_all_modules(init_default_scope=False)
    coco.train_dataloader.dataset = dict(dict(type='CocoDataset'), **change)
    launch.check_data_paths(coco, splits=('train',))
    if 'CIFAR10' in coco.train_dataloader.dataset.type:
        coco.train_dataloader.dataset.download = False
        assert '/nonexistent' in missing(coco)


def test_every_run_can_read_pruned_checkpoints():
    cfg = Config(dict(custom_hooks=[dict(type='SparsityHook')]))
    launch.ensure_pruned_checkpoint_hook(cfg)
    assert [hook.type for hook in cfg.custom_hooks] == ['SparsityHook', 'PrunedCheckpointHook']
    launch.ensure_pruned_checkpoint_hook(cfg)
    assert len(cfg.custom_hooks) == 2
    cfg = Config(dict(custom_hooks=[dict(type='mmpsbn.DemPHook')]))
    launch.ensure_pruned_checkpoint_hook(cfg)
    assert len(cfg.custom_hooks) == 1
    cfg = Config(dict(custom_hooks=None))
    launch.ensure_pruned_checkpoint_hook(cfg)
    assert cfg.custom_hooks[0].type == 'PrunedCheckpointHook'


def test_scale_lr_needs_a_base_batch_size():
    cfg = Config(dict(auto_scale_lr=dict(base_batch_size=16)))
    launch.scale_lr(cfg)
    assert cfg.auto_scale_lr.enable
    with pytest.raises(ValueError, match='needs auto_scale_lr.base_batch_size'):
        launch.scale_lr(Config(dict(auto_scale_lr=None)))


@pytest.mark.skipif(torch.cuda.is_available(), reason='the refusal is for machines without a GPU')
def test_amp_on_cpu_is_refused():
    with pytest.raises(ValueError, match='--amp needs a GPU'):
        launch.use_amp(Config(dict(optim_wrapper=dict(type='OptimWrapper'))))


def test_ranks_without_a_launcher_are_refused(monkeypatch):
    for name in ('RANK', 'WORLD_SIZE'):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        ValueError, match='needs RANK, WORLD_SIZE.* start through tools/dist_train.sh'
    ):
        launch.prepare_cpu_ranks(Config({}), 'pytorch')


CPU_RANK = """
import sys
from mmengine.config import Config
from mmengine.runner import Runner
from mmpsbn.commands import launch
from torch import distributed, nn
cfg = Config(dict(find_unused_parameters=True))
launch.prepare_cpu_ranks(cfg, 'pytorch')
assert distributed.get_backend() == 'gloo' and distributed.get_world_size() == 2
runner = Runner.__new__(Runner)
runner.__dict__.update(cfg=cfg, _distributed=True, _launcher='pytorch')
model = runner.wrap_model(cfg.model_wrapper_cfg, nn.Linear(2, 2))
assert type(model).__name__ == 'MMDistributedDataParallel' and model.device_ids is None
assert model.find_unused_parameters and not model.broadcast_buffers
launch.close_ranks()
print('wrapped')
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason='CPU ranks are for machines without a GPU')
def test_mmengine_wraps_cpu_ranks(tmp_path):
    (tmp_path / 'rank.py').write_text(CPU_RANK)
    command = [
        sys.executable,
        '-m',
        'torch.distributed.run',
        '--standalone',
        '--local-addr=127.0.0.1',
        '--nproc-per-node=2',
        tmp_path / 'rank.py',
    ]
    done = subprocess.run(
        command,
        env=dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1'),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.count('wrapped') == 2, done.stderr


def test_sigterm_unwinds_the_program():
    code = (
        'import os, signal\nfrom mmpsbn.commands import launch\nlaunch.exit_cleanly_on_sigterm()\n'
        'try:\n    os.kill(os.getpid(), signal.SIGTERM)\n    signal.pause()\n'
        'finally:\n    print("closed")\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 128 + signal.SIGTERM and done.stdout == 'closed\n'
    assert 'run the same command with --resume' in done.stderr


def test_train_tool_tells_missing_data_in_one_sentence(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(
        "train_dataloader = dict(dataset=dict(type='CocoDataset', data_root='/nonexistent/'))\n"
        "model = dict(type='NotBuilt')\n"
    )
    done = subprocess.run(
        [sys.executable, ROOT / 'tools/train.py', config, '--work-dir', tmp_path],
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "error: '/nonexistent/' (train_dataloader.dataset.data_root) does not exist"
    )
    assert 'Traceback' not in done.stderr
