"""The example of docs/pruning.md that makes boxes of an ONNX file's raw outputs."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmpsbn.commands.export import export_model

pytest.importorskip('onnxruntime')
PAGE = Path(__file__).parents[2] / 'docs/pruning.md'
(EXAMPLE,) = re.findall(r'```python\n(import cv2\n.*?)```', PAGE.read_text(), re.S)
CONFIG = """
_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
model = dict(
    backbone=dict(base_channels=8, init_cfg=None),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    bbox_head=dict(num_classes=3, in_channels=16, feat_channels=16, stacked_convs=1),
    test_cfg=dict(score_thr=0.3),
)
"""


def test_the_example_finds_what_mmdet_finds(tmp_path, monkeypatch, capsys):
    from mmdet.apis import inference_detector, init_detector

    (tmp_path / 'retinanet.py').write_text(CONFIG)
    cfg = Config.fromfile(str(tmp_path / 'retinanet.py'))
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    head = model.bbox_head
    with torch.no_grad():  # scores on both sides of the threshold, boxes unlike their anchors
        torch.nn.init.normal_(head.retina_cls.weight, std=0.5)
        torch.nn.init.normal_(head.retina_reg.weight, std=0.1)
        head.retina_cls.bias.fill_(-1.5)
    meta = dict(dataset_meta=dict(classes=('a', 'b', 'c'), palette=[(0, 0, 255)] * 3))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), tmp_path / 'retinanet.pth')
    exported = export_model(
        cfg,
        str(tmp_path / 'retinanet.pth'),
        out_dir=str(tmp_path / 'out'),
        fuse=False,
        onnx=True,
        input_size=(96, 128),
        force=False,
    )
    (tmp_path / 'out/retinanet.onnx').rename(tmp_path / 'retinanet.onnx')
    # wider than the network's input, and lower, so that it is resized and then padded below
    photograph = np.random.default_rng(0).integers(0, 256, (10, 16, 3), dtype=np.uint8)
    photograph = cv2.resize(photograph, (256, 160), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(tmp_path / 'photograph.jpg'), photograph)
    monkeypatch.chdir(tmp_path)

    exec(compile(EXAMPLE, str(PAGE), 'exec'), {})

    cfg = Config.fromfile(exported.config)
    for transform in cfg.test_dataloader.dataset.pipeline:
        if transform.type == 'Resize':
            transform.scale = (128, 96)
    detector = init_detector(cfg, exported.checkpoint, device='cpu')
    found = inference_detector(detector, 'photograph.jpg').pred_instances
    lines = capsys.readouterr().out.splitlines()
    ours = [line for line in lines if line.startswith('class ')]
    theirs = []
    for (x1, y1, x2, y2), score, label in zip(found.bboxes, found.scores, found.labels):
        size = f'{x2 - x1:.0f} x {y2 - y1:.0f}'
        theirs.append(f'class {label}: {score:.2f} at x {x1:.0f}, y {y1:.0f}, {size}')
    assert len(theirs) >= 5
    assert sorted(ours) == sorted(theirs)
