"""What of a model runs in float64 on the CPU, and how: raw outputs, no post-processing.

mmcv's NMS has no float64 kernel, so second stages get fixed proposals.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from mmdet.models import (
    BaseMOTModel,
    CascadeRPNHead,
    DetectionTransformer,
    MaskFormer,
    SingleStageDetector,
    SparseRCNN,
    TwoStageDetector,
)
from mmdet.models.detectors.single_stage_instance_seg import SingleStageInstanceSegmentor
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Forward = Callable[[nn.Module, Tensor], Any]


class _Float64Throughout(TorchFunctionMode):
    """Where a model's code asks for float32 (grids, position encodings), give it float64."""

    def __enter__(self):
        self._default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        return super().__enter__()

    def __exit__(self, *exc):
        torch.set_default_dtype(self._default)
        return super().__exit__(*exc)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        def widen(x):
            return torch.float64 if x is torch.float32 else x

        kwargs = {key: widen(value) for key, value in (kwargs or {}).items()}
        func = Tensor.double if func is Tensor.float else func
        return func(*map(widen, args), **kwargs)


def _samples(images: Tensor) -> list[DetDataSample]:
    shape = tuple(images.shape[-2:])
    meta = dict(
        img_shape=shape,
        ori_shape=shape,
        pad_shape=shape,
        batch_input_shape=shape,
        scale_factor=(1.0, 1.0),
    )
    return [DetDataSample(metainfo=dict(meta)) for _ in images]


def _proposals(images: Tensor) -> list[InstanceData]:
    """Boxes for every level of a pyramid: an extractor sums up a level that gets none."""
    sides = images.new_tensor([20.0, 40, 150, 300, 700])[:, None]
    boxes = torch.cat([sides / 8, sides / 4, sides, sides], 1)
    return [InstanceData(bboxes=boxes) for _ in images]


def _single_stage(model, images):
    return model.bbox_head(model.extract_feat(images))


def _with_samples(model, images):
    return model._forward(images, _samples(images))


def _instance_segmentor(model, images):
    x = model.extract_feat(images)
    if not model.with_bbox:
        return model.mask_head(x)
    # the masks of single instances come out of NMS; what they are made of does not
    masks = getattr(model.mask_head, 'mask_feature_head', None)
    masks = masks(x) if masks else model.mask_head.protonet(x[0])
    return model.bbox_head(x), masks


def _rpn(head, x):
    if not isinstance(head, CascadeRPNHead):
        return head(x)
    outputs, offsets = [], None
    for stage in head.stages:
        x, *predictions = stage(x, offsets)
        outputs += [p for p in predictions if p[0] is not None]
        offsets = [f.new_full((len(f), f[0, 0].numel(), 18), 0.3) for f in x]
    return outputs


def _two_stage(model, images):
    x = model.extract_feat(images)
    rpn = _rpn(model.rpn_head, x) if model.with_rpn else ()
    # TridentNet makes a batch of its branches
    images = images.repeat(len(x[0]) // len(images), 1, 1, 1)
    return rpn, model.roi_head.forward(x, _proposals(images), _samples(images))


def _query_based(model, images):
    x = model.extract_feat(images)
    samples = _samples(images)
    metas = [sample.metainfo for sample in samples]
    proposals = model.rpn_head.predict(x, samples)
    boxes = torch.stack([p.bboxes for p in proposals])
    features = torch.stack([p.features for p in proposals])
    head, outputs = model.roi_head, []
    for stage in range(head.num_stages):
        number = torch.arange(len(boxes)).repeat_interleave(boxes.shape[1])
        rois = torch.cat([number[:, None].to(boxes), boxes.flatten(0, 1)], 1)
        boxes_out = head._bbox_forward(stage, x, rois, features, metas)
        features = boxes_out['object_feats']
        outputs += [boxes_out['cls_score'], boxes_out['decoded_bboxes']]
        if head.with_mask:
            attention = boxes_out['attn_feats'].flatten(0, -2)
            masks = head._mask_forward(stage, x, rois[:2], attention[:2])  # a hundred take long
            outputs.append(masks['mask_preds'])
        boxes = torch.stack(tuple(boxes_out['detached_proposals']))
    return outputs


def _video_segmentor(model, images):
    return model.track_head.forward(model.backbone(images), _samples(images))


def _tensor_mode(model, images):
    return model(images, mode='tensor')


def _neck(model, images):
    return model.extract_feat(images)


def _backbone(model, images):
    return model.backbone(images)


def candidates(model: nn.Module) -> Iterator[tuple[str, Forward]]:
    """(what runs, how) for a model, the largest part first."""
    if isinstance(model, SingleStageInstanceSegmentor):
        yield 'all but instance masks' if model.with_bbox else 'all', _instance_segmentor
    elif isinstance(model, SparseRCNN):
        yield 'all', _query_based
    elif isinstance(model, TwoStageDetector) and model.with_roi_head:
        yield 'all, fixed proposals', _two_stage
    elif isinstance(model, TwoStageDetector):  # the image side of a model that reads text
        yield 'image side: backbone and neck', _neck
    elif isinstance(model, (DetectionTransformer, MaskFormer)):
        yield 'all', _with_samples
    elif isinstance(model, SingleStageDetector):
        yield 'all', _single_stage
    elif isinstance(model, BaseMOTModel):
        yield 'all', _video_segmentor
    else:
        yield 'all', _tensor_mode
    yield 'backbone and neck', _neck
    yield 'backbone', _backbone


def find_forward(
    model: nn.Module, sizes: Iterable[tuple[int, int]], seed: int
) -> tuple[str, Forward, Tensor]:
    """The largest part that runs at one of the image sizes.

    Returns:
        what runs, and why nothing larger does; ``forward(model, images)``; images of shape
        (1, C, height, width).

    Raises:
        RuntimeError: nothing runs; with the last error.
    """
    obstacle = ''
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    channels = 1 if first is not None and first.in_channels == 1 else 3
    for what, part in candidates(model):

        def forward(model, images, part=part):
            with _Float64Throughout():
                return part(model, images)

        for size in sizes:
            generator = torch.Generator().manual_seed(seed)
            images = torch.randn(1, channels, *size, generator=generator, dtype=torch.float64)
            try:
                with torch.no_grad():
                    forward(model, images)
            except Exception as error:
                reason = ' '.join(str(error).split())[:120]
            else:
                return what + obstacle, forward, images
        obstacle = obstacle or f' ({what.split(",")[0]}: {reason})'
    raise RuntimeError(f'no part of it runs: {reason}')
