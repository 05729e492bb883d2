"""mmpsbn export --onnx: models that cannot be written as ONNX are refused in words."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from small_detector import refusal, run
from torchvision.ops import roi_align
from toy import ToyNet

from mmpsbn.commands import export
from mmpsbn.engine.onnx_file import check_one_stage, write_onnx

pytest.importorskip('onnxruntime')
TWO_STAGES = """
_base_ = 'mmdet::{base}'
model = dict(
    backbone=dict(depth=18, base_channels=8, init_cfg=None),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=32){mask}))
"""
MASK = """,
        mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(in_channels=16, conv_out_channels=16)"""


@pytest.mark.parametrize(
    'base, mask',
    [
        ('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', ''),
        ('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', MASK),
    ],
)
def test_a_second_stage_is_refused_before_anything_is_traced(tmp_path, monkeypatch, base, mask):
    (tmp_path / 'net.py').write_text(TWO_STAGES.format(base=base, mask=mask))
    cfg = Config.fromfile(str(tmp_path / 'net.py'))
    init_default_scope('mmdet')
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), tmp_path / 'net.pth')
    monkeypatch.setattr(export, 'trace_at_any_size', None)
    arguments = (tmp_path / 'net.py', tmp_path / 'net.pth', '--out', tmp_path / 'out', '--onnx')
    message = refusal(run, 'export', *arguments)
    assert 'RoIHead) reads regions' in message and message.endswith('leave out --onnx')
    assert not (tmp_path / 'out').exists()


YOLACT = """
_base_ = 'mmdet::yolact/yolact_r50_1xb8-55e_coco.py'
model = dict(
    backbone=dict(depth=18, base_channels=8, init_cfg=None),
    neck=dict(in_channels=[8, 16, 32, 64]))
"""


def test_masks_of_objects_are_refused(tmp_path):
    """Their outputs would be named after those of the boxes."""
    (tmp_path / 'net.py').write_text(YOLACT)
    init_default_scope('mmdet')
    model = MODELS.build(Config.fromfile(str(tmp_path / 'net.py')).model)
    with pytest.raises(ValueError, match=r'its masks \(YOLACTProtonet\) are of objects'):
        check_one_stage(model)


class NoSuchOperator(ToyNet):
    def forward(self, inputs, mode='tensor'):
        return torch.linalg.eigvals(inputs).real


class RegionsOfTwoPictures(ToyNet):
    """With one picture alone onnxruntime looks for the second."""

    def forward(self, inputs, mode='tensor'):
        boxes = torch.tensor([[0.0, 0, 0, 4, 4], [1.0, 0, 0, 4, 4]])
        return roi_align(inputs, boxes, 2)


@pytest.mark.parametrize(
    'model, message',
    [
        (NoSuchOperator, "torch.onnx.export cannot write NoSuchOperator as ONNX: .*'aten::linalg_"),
        (RegionsOfTwoPictures, 'onnxruntime cannot run RegionsOfTwoPictures as ONNX: .*RoiAlign'),
    ],
)
def test_what_exporter_or_runtime_refuse_is_said_in_one_line(tmp_path, model, message):
    with pytest.raises(RuntimeError, match=message) as error:
        write_onnx(model(), torch.randn(2, 3, 8, 8), str(tmp_path / 'net.onnx'))
    assert '\n' not in str(error.value)
