"""What mmpsbn train and mmpsbn test do with a config before a runner is built."""

import os
import signal

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from small_detector import refusal, run
from torch import distributed, nn

from mmpsbn.commands import launch
from mmpsbn.commands.data_paths import check_data_paths

CPU_RANKS = pytest.mark.skipif(
    torch.cuda.is_available(), reason='CPU ranks are for machines without a GPU'
)


@pytest.fixture
def coco(tmp_path):
    """A config of mmdet's shape and the data it names."""
    root = tmp_path / 'data'
    (root / 'annotations').mkdir(parents=True)
    (root / 'images').mkdir()
    (root / 'annotations/train.json').touch()
    part = dict(
        type='CocoDataset',
        data_root=f'{root}/',
        ann_file='annotations/train.json',
        data_prefix=dict(img='images/'),
    )
    parts = dict(type='ConcatDataset', datasets=[part, dict(part)])
    return Config(
        dict(
            default_scope='mmdet',
            train_dataloader=dict(dataset=dict(type='RepeatDataset', times=2, dataset=parts)),
            val_dataloader=None,
            val_evaluator=dict(type='CocoMetric', ann_file=f'{root}/annotations/train.json'),
        )
    )


def missing(cfg, splits=('train', 'val')):
    with pytest.raises(FileNotFoundError) as error:
        check_data_paths(cfg, splits=splits)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_missing_data_names_path_and_key_inside_wrappers(coco):
    check_data_paths(coco, splits=('train', 'val', 'test'))
    part = coco.train_dataloader.dataset.dataset.datasets[1]
    key = 'train_dataloader.dataset.dataset.datasets.1'
    part.ann_file = 'annotations/none.json'
    path = f'{part.data_root}annotations/none.json'
    assert missing(coco).startswith(f"'{path}' ({key}.ann_file) does not exist")
    part.ann_file, part.data_prefix = '', dict(img='no_images/')
    assert f'({key}.data_prefix.img)' in missing(coco)
    part.data_root = '/nonexistent/'
    assert missing(coco).startswith(f"'/nonexistent/' ({key}.data_root)")
    check_data_paths(coco, splits=('val',))
    coco.val_dataloader = coco.train_dataloader
    coco.val_evaluator = [dict(type='CocoMetric', ann_file='/nonexistent/val.json')]
    part.data_root, part.data_prefix = '', {}
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
    check_data_paths(coco, splits=('train',))
    if 'CIFAR10' in coco.train_dataloader.dataset.type:
        coco.train_dataloader.dataset.download = False
        assert '/nonexistent' in missing(coco)


def test_the_command_tells_missing_data_in_one_sentence(tmp_path):
    (tmp_path / 'config.py').write_text(
        "train_dataloader = dict(dataset=dict(type='CocoDataset', data_root='/nonexistent/'))\n"
        "model = dict(type='NotBuilt')\n"
    )
    said = refusal(run, 'train', tmp_path / 'config.py', '--work-dir', tmp_path)
    assert said.startswith("error: '/nonexistent/' (train_dataloader.dataset.data_root) does not")


@pytest.mark.parametrize(
    'before, after',
    [
        ([dict(type='SparsityHook')], ['SparsityHook', 'PrunedCheckpointHook']),
        ([dict(type='PrunedCheckpointHook')], ['PrunedCheckpointHook']),
        ([dict(type='mmpsbn.DemPHook')], ['mmpsbn.DemPHook']),
        (None, ['PrunedCheckpointHook']),
    ],
)
def test_every_run_can_read_pruned_checkpoints(before, after):
    cfg = Config(dict(custom_hooks=before))
    launch.ensure_pruned_checkpoint_hook(cfg)
    assert [hook.type for hook in cfg.custom_hooks] == after


def test_scale_lr_needs_a_base_batch_size():
    cfg = Config(dict(auto_scale_lr=dict(base_batch_size=16)))
    launch.scale_lr(cfg)
    assert cfg.auto_scale_lr.enable
    with pytest.raises(ValueError, match='needs auto_scale_lr.base_batch_size'):
        launch.scale_lr(Config(dict(auto_scale_lr=None)))


@pytest.mark.parametrize('scope', ['mmdet', None])
def test_flipped_pictures_are_those_of_each_data_set_with_or_without_a_scope(scope):
    inner = dict(type='A', pipeline=[dict(type='Load'), dict(type='Pack')])
    joined = dict(type='ConcatDataset', datasets=[inner, dict(type='Repeat', dataset=inner)])
    cfg = Config(
        dict(default_scope=scope, model=dict(type='M'), test_dataloader=dict(dataset=joined))
    )
    launch.use_tta(cfg)
    first, wrapped = cfg.test_dataloader.dataset.datasets
    load, views = cfg.tta_pipeline
    assert first.pipeline == wrapped.dataset.pipeline == cfg.tta_pipeline
    assert load == dict(type='Load') and cfg.model.module == dict(type='M')
    flips, (pack,) = views.transforms
    assert [(flip.type, flip.prob) for flip in flips] == [('mmdet.RandomFlip', p) for p in (1, 0)]
    assert pack.type == 'mmdet.PackDetInputs' and 'flip_direction' in pack.meta_keys


@pytest.mark.parametrize('written', [False, True])
def test_a_run_without_a_checkpoint_to_go_on_from_begins_as_its_config_says(tmp_path, written):
    if written:
        (tmp_path / 'last_checkpoint').write_text('epoch_1.pth')
    cfg = Config(dict(work_dir=str(tmp_path), load_from='trained.pth', resume=False))
    launch.resume_from(cfg, 'auto')
    assert (cfg.resume, cfg.load_from) == ((True, None) if written else (False, 'trained.pth'))


@CPU_RANKS
def test_amp_on_cpu_is_refused():
    with pytest.raises(ValueError, match='--amp needs a GPU'):
        launch.use_amp(Config(dict(optim_wrapper=dict(type='OptimWrapper'))))


def test_ranks_without_a_launcher_are_refused(monkeypatch):
    for name in ('RANK', 'WORLD_SIZE'):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match='needs RANK, WORLD_SIZE.* start through torchrun '):
        launch.prepare_cpu_ranks(Config({}), 'pytorch')


@CPU_RANKS
def test_mmengine_wraps_a_cpu_rank(monkeypatch):
    ranks = dict(RANK='0', LOCAL_RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1', MASTER_PORT='0')
    for name, value in ranks.items():
        monkeypatch.setenv(name, value)
    cfg = Config(dict(find_unused_parameters=True))
    launch.prepare_cpu_ranks(cfg, 'pytorch')
    try:
        assert distributed.get_backend() == 'gloo'
        runner = Runner.__new__(Runner)
        runner.__dict__.update(cfg=cfg, _distributed=True, _launcher='pytorch')
        model = runner.wrap_model(cfg.model_wrapper_cfg, nn.Linear(2, 2))
        assert type(model).__name__ == 'MMDistributedDataParallel' and model.device_ids is None
        assert model.find_unused_parameters and not model.broadcast_buffers
    finally:
        launch.close_ranks()
    assert not distributed.is_initialized()


def test_sigterm_unwinds_the_program(capsys):
    before = signal.getsignal(signal.SIGTERM)
    try:
        launch.exit_cleanly_on_sigterm()
        with pytest.raises(SystemExit) as stopped:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert 'run the same command with --resume' in capsys.readouterr().err
