"""A project outside the clone inherits our configs from the installed package."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

import mmpsbn  # noqa: F401

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


README = (Path(__file__).parents[1] / 'README.md').read_text()
TWO_LINES = """
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['mmpsbn'], allow_failed_imports=False)
"""
MY_DETECTOR = """
model = dict(backbone=dict(depth=18, norm_cfg=dict(type='BN')))
custom_hooks = [dict(type='EMAHook')]
"""


def load(folder, text):
    (folder / 'my_config.py').write_text(text)
    return Config.fromfile(str(folder / 'my_config.py'))


def test_the_configs_of_the_readme_load(tmp_path):
    (tmp_path / 'my_detector.py').write_text(MY_DETECTOR)
    section = README[README.index('## In your own project') : README.index('## Configs')]
    keep, prune, whole, fragment, pure = re.findall('```python\n(.*?)```', section, re.S)
    found = [load(tmp_path, text) for text in (keep, TWO_LINES + prune, whole, fragment, pure)]
    assert [[hook.type for hook in cfg.custom_hooks] for cfg in found] == [
        ['SparsityHook'],
        ['SparsityHook', 'DemPHook'],
        ['SparsityHook', 'DemPHook'],
        ['SparsityHook'],
        ['EMAHook', 'SparsityHook'],
    ]
    norms = [cfg.model.backbone.norm_cfg.type for cfg in found]
    assert norms == ['psBN', 'BN', 'BN', 'psBN', 'psBN']
    assert [cfg.model.backbone.get('norm_eval') for cfg in found[1:3]] == [False, False]
    assert all(cfg.custom_imports.imports == ['mmpsbn'] for cfg in found)


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
    (line,) = re.findall(rf'`({key} = .*?_base_.*?)`', README)
    cfg = load(tmp_path, f"_base_ = 'mmdet::{base}'\n{line}")
    assert kept in str(cfg[key]) and ours in str(cfg[key])
