"""A project outside the clone inherits our configs from the installed package."""

import subprocess
import sys
from pathlib import Path

import pytest

WHOLE = """
_base_ = 'mmpsbn::retinanet/retinanet_r50_psbn_demp.py'
model = dict(bbox_head=dict(num_classes=3))
"""
BESIDE_ANOTHER_BASE = """
_base_ = ['mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 'mmpsbn::_base_/demp.py']
model = dict(backbone=dict(norm_cfg=_base_.psbn))
"""
PURE_PYTHON = """
from mmengine.config import read_base
with read_base():
    from mmpsbn.configs._base_.demp import *
model = dict(type='RetinaNet', backbone=dict(type='ResNet', norm_cfg=psbn))
"""
SHOW = """
{before}
from mmengine.config import Config
cfg = Config.fromfile('my_config.py')
print('inherited', cfg.model.type, cfg.model.backbone.norm_cfg.type,
      [hook.type for hook in cfg.custom_hooks], cfg.custom_imports.imports)
import mmpsbn
from mmengine.registry import HOOKS, init_default_scope
from mmdet.registry import MODELS
init_default_scope('mmdet')
norm = MODELS.build(dict(type='ResNet', depth=18, norm_cfg=cfg.model.backbone.norm_cfg)).bn1
print('built', type(norm).__name__, [type(HOOKS.build(hook)).__name__ for hook in cfg.custom_hooks])
print('package', mmpsbn.__file__)
"""


@pytest.mark.parametrize(
    'config, before, detector',
    [
        (WHOLE, 'import mmpsbn', 'RetinaNet'),
        (BESIDE_ANOTHER_BASE, 'import mmpsbn', 'FasterRCNN'),
        (PURE_PYTHON, '', 'RetinaNet'),
    ],
)
def test_a_downstream_config_inherits_ours(tmp_path, config, before, detector):
    (tmp_path / 'my_config.py').write_text(config)
    run = subprocess.run(
        [sys.executable, '-c', SHOW.format(before=before)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    said = dict(line.split(' ', 1) for line in run.stdout.splitlines() if ' ' in line)
    assert said['inherited'] == f"{detector} psBN ['SparsityHook', 'DemPHook'] ['mmpsbn']"
    assert said['built'] == "psBN2d ['SparsityHook', 'DemPHook']"
    assert Path(said['package']).parent.name == 'mmpsbn'
    assert 'registry' not in run.stdout  # MMEngine warns there of a scope it does not find
