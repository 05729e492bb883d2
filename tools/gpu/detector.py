"""RetinaNet and pictures for it; needs mmcv's operations, which mmdet imports."""

from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from .runs import kill_channels

CONFIG = Path(__file__).resolve().parents[2] / 'configs/retinanet/retinanet_r50_bn_demp.py'
_EXPANSION = {18: 1, 50: 4}  # of the blocks


def retinanet_with_dead_channels(seed: int, *, depth: int, width: int, dtype: str) -> nn.Module:
    """From a seed, nothing frozen.

    The loss of the classes is one of torch's own operations: mmcv's focal loss reckons in float32
    on a GPU, and may not be built for it.

    Args:
        width: channels of the stem, 64 as published.
    """
    init_default_scope('mmdet')
    cfg = Config.fromfile(str(CONFIG)).model
    cfg.backbone.update(depth=depth, base_channels=width, stem_channels=width)
    cfg.backbone.update(init_cfg=None, frozen_stages=-1)
    cfg.neck.in_channels = [_EXPANSION[depth] * width * 2**stage for stage in range(4)]
    cfg.neck.out_channels = 4 * width
    cfg.bbox_head.update(in_channels=4 * width, feat_channels=4 * width)
    cfg.bbox_head.loss_cls = dict(type='CrossEntropyLoss', use_sigmoid=True)
    torch.manual_seed(seed)
    model = MODELS.build(cfg)
    model.init_weights()
    stages = (getattr(model.backbone, f'layer{i}') for i in range(1, 5))
    kill_channels([block.bn1 for stage in stages for block in stage], [1, 3])
    return model.to(getattr(torch, dtype))


def detections(seed: int, *, side: int, count: int = 8) -> list[dict]:
    """Noise with boxes, from a seed."""
    torch.manual_seed(seed)
    batch = demo_mm_inputs(
        count, image_shapes=[(3, side, side)] * count, num_items=[4] * count, num_classes=80
    )
    return [dict(zip(batch, picture)) for picture in zip(*batch.values())]
