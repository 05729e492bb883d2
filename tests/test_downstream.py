"""A project outside the clone inherits our configs from the installed package."""

import re
import subprocess
import sys
from pathlib import Path

import mmdet
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

import mmpsbn  # noqa: F401
from mmpsbn.datasets import write_digits_dataset
from mmpsbn.layers import psBN2d

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / 'docs/configs.md').read_text()
SECTION = PAGE[PAGE.index('## In your own project') : PAGE.index('## The configs')]
KEEP, PRUNE, INHERIT, FRAGMENT, PURE = re.findall('```python\n(.*?)```', SECTION, re.S)
PRUNE = ''.join(KEEP.splitlines(keepends=True)[:3]) + PRUNE  # "under the same first two lines"
OUR_TOOL, MMDET_TOOL = ROOT / 'tools/train.py', Path(mmdet.__file__).parent / '.mim/tools/train.py'
SMALL = """
model.setdefault('backbone', {}).update(depth=18, base_channels=16, init_cfg=None)
model['neck'] = dict(in_channels=[16, 32, 64, 128], out_channels=32)
"""
OF_RETINANET = f"""{SMALL}
model['bbox_head'] = dict(num_classes=10, in_channels=32, feat_channels=32, stacked_convs=2)
"""
OF_FASTER_RCNN = f"""{SMALL}
model['rpn_head'] = dict(in_channels=32, feat_channels=32)
model['roi_head'] = dict(
    bbox_roi_extractor=dict(out_channels=32),
    bbox_head=dict(num_classes=10, in_channels=32, fc_out_channels=64),
)
"""
DATA = """
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_root='digits/',
        ann_file='annotations/train.json',
        data_prefix=dict(img='train/'),
        metainfo=dict(classes=tuple('0123456789')),
    ),
)
train_cfg = dict(max_epochs=1)
val_cfg = val_dataloader = val_evaluator = None
test_cfg = test_dataloader = test_evaluator = None
"""
SLOW = pytest.mark.slow
RESUMED = "custom_hooks = [dict(type='DemPHook', prune=dict(interval=1, num_samples=2))]"


def load(folder, text):
    (folder / 'my_config.py').write_text(text)
    return Config.fromfile(str(folder / 'my_config.py'))


def write_my_detector(folder):
    """A RetinaNet in MMEngine's pure-Python style, with a hook."""
    base = "_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'\nmodel = {}"
    detector = load(folder, f'{base}\n{OF_RETINANET}\n{DATA}')
    imports = 'from mmengine.hooks import EMAHook'
    hooks = 'custom_hooks = [dict(type=EMAHook)]'
    (folder / 'my_detector.py').write_text(f'{imports}\n{detector.pretty_text}\n{hooks}\n')


@pytest.mark.parametrize(
    'tool, config, rest, norm, hooks',
    [
        pytest.param(MMDET_TOOL, KEEP, OF_RETINANET, 'psBN', {'SparsityHook'}, id='keep'),
        pytest.param(
            MMDET_TOOL,
            PRUNE,
            f'model = {{}}\n{OF_RETINANET}',
            'BN',
            {'SparsityHook', 'DemPHook'},
            id='prune',
            marks=SLOW,
        ),
        pytest.param(
            OUR_TOOL,
            INHERIT,
            f'model = {{}}\n{OF_RETINANET}\n{RESUMED}',
            'BN',
            {'DemPHook'},
            id='inherit',
            marks=SLOW,
        ),
        pytest.param(
            OUR_TOOL, FRAGMENT, OF_FASTER_RCNN, 'psBN', {'SparsityHook'}, id='fragment', marks=SLOW
        ),
        pytest.param(
            MMDET_TOOL, PURE, None, psBN2d, {'SparsityHook'}, id='pure Python', marks=SLOW
        ),
    ],
)
def test_what_the_docs_show_trains_with_the_tool_they_name(
    tmp_path, tool, config, rest, norm, hooks
):
    """In a process of its own, in which nothing has imported mmpsbn."""
    size = dict(num_train=100 if config == PRUNE else 2, num_val=2, image_size=(96, 64), seed=0)
    write_digits_dataset(f'{tmp_path}/digits/', **size)
    if rest is None:
        write_my_detector(tmp_path)
    text = config if rest is None else f'{config}\n{rest}\n{DATA}'
    if config == PRUNE:
        text = text.replace('max_epochs=1', 'max_epochs=4')
    (tmp_path / 'my_config.py').write_text(text)
    if config == PRUNE:
        init_default_scope('mmdet')
        model = MODELS.build(Config.fromfile(str(tmp_path / 'my_config.py')).model)
        torch.save(dict(state_dict=model.state_dict()), tmp_path / 'my_detector.pth')
    scale = 'train_dataloader.dataset.pipeline.2.scale=(96,64)'
    run = subprocess.run(
        [sys.executable, tool, 'my_config.py', '--work-dir', 'run', '--cfg-options', scale],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    log = run.stdout + run.stderr
    assert 'Saving checkpoint at 1 epochs' in log
    assert 'registry' not in log  # MMEngine warns there of a scope it does not find
    assert {'SparsityHook', 'DemPHook'}.intersection(log.split()) == hooks
    cfg = Config.fromfile(str(tmp_path / 'my_config.py'))
    assert cfg.model.backbone.norm_cfg.type == norm
    if config == INHERIT:
        assert cfg.model.backbone.norm_eval is False and 'prune event at iteration 1' in log
    if config == PRUNE:  # 200 iterations, which are the fewest that do
        assert 'budget flops=0.5 is met' in log and 'Load checkpoint from my_detector.pth' in log


@SLOW
def test_a_classification_config_is_inherited(tmp_path):
    for split in ('train', 'test'):
        for label in 'ab':
            folder = tmp_path / 'pictures' / split / label
            folder.mkdir(parents=True)
            for number in range(2):
                Image.new('RGB', (32, 32), (80 * number,) * 3).save(folder / f'{number}.png')
    loader = "dataset=dict(data_root='pictures')"
    (tmp_path / 'my_config.py').write_text(
        "_base_ = 'mmpsbn::cifar/resnet20_psbn_cifar10_jpeg.py'\n"
        f'train_dataloader = dict(batch_size=2, {loader})\n'
        f'val_dataloader = dict({loader})\n'
        'train_cfg = dict(max_epochs=1)\n'
    )
    run = subprocess.run(
        [sys.executable, OUR_TOOL, 'my_config.py', '--work-dir', 'run'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    log = run.stdout + run.stderr
    assert 'accuracy/top1' in log and 'Saving checkpoint at 1 epochs' in log
    assert 'registry' not in log


@pytest.mark.parametrize(
    'base, key, kept, ours',
    [
        ('rtmdet/rtmdet_tiny_8xb32-300e_coco.py', 'custom_hooks', 'EMAHook', 'SparsityHook'),
        (
            'convnext/cascade-mask-rcnn_convnext-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py',
            'custom_imports',
            'mmpretrain.models',
            'mmpsbn',
        ),
    ],
)
def test_a_base_with_hooks_or_imports_of_its_own(tmp_path, base, key, kept, ours):
    with pytest.raises(KeyError, match=f"Duplicate key is not allowed among bases.*'{key}'"):
        load(tmp_path, f"_base_ = ['mmdet::{base}', 'mmpsbn::_base_/psbn.py']")
    (line,) = re.findall(rf'`({key} = .*?_base_.*?)`', PAGE)
    cfg = load(tmp_path, f"_base_ = 'mmdet::{base}'\n{line}")
    assert kept in str(cfg[key]) and ours in str(cfg[key])
