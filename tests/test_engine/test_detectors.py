"""DemPHook on detectors: two stages, queries, layers that run in training only."""

import copy

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from mmpretrain.structures import DataSample
from runs import EMA, average_of, demp, messages_of, slow
from toy import kill_channels

from mmpsbn.engine.openmmlab import forward_tensors, trace_at_any_size
from mmpsbn.pruning import apply_plan, trace_channel_graph
from mmpsbn.pruning.plan import plan_from_keep_masks

BACKBONE = """
backbone = dict(depth=18, base_channels=8, frozen_stages=-1, norm_eval=False, init_cfg=None)
backbone.update(norm_cfg=dict(requires_grad=True))
"""
FASTER_RCNN = """
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
model = dict(
    backbone=backbone,
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=24, num_classes=10),
    ),
)
"""
DETR = """
_base_ = 'mmdet::detr/detr_r50_8xb2-150e_coco.py'
model = dict(
    backbone=backbone,
    neck=dict(in_channels=[64]),
    encoder=dict(num_layers=1),
    decoder=dict(num_layers=1),
)
"""
DINO = """
_base_ = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'
model = dict(
    num_queries=10,
    backbone=backbone,
    neck=dict(in_channels=[16, 32, 64]),
    encoder=dict(num_layers=1, layer_cfg=dict(ffn_cfg=dict(feedforward_channels=32))),
    decoder=dict(num_layers=1, layer_cfg=dict(ffn_cfg=dict(feedforward_channels=32))),
    dn_cfg=dict(group_cfg=dict(num_dn_queries=4)),
)
"""
AUTOASSIGN = """
_base_ = 'mmdet::autoassign/autoassign_r50-caffe_fpn_1x_coco.py'
model = dict(
    backbone=backbone,
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16, norm_cfg=dict(type='GN', num_groups=4)),
)
"""


# The stock neck and head, without a norm layer.
RETINANET = """
_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
model = dict(
    backbone=backbone,
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16, num_classes=10),
)
"""
# norm layers that no training changes; of the gammas that begin at 0 none would
FIXED_NORMS = f"""{RETINANET}
model['backbone'].update(norm_cfg=dict(requires_grad=False), norm_eval=True)
model['backbone'].update(zero_init_residual=False)
"""
# SiLU, attention over channels, heads that share their convolutions between levels
RTMDET = """
_base_ = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
norm = dict(type='BN')
model = dict(
    backbone=dict(widen_factor=0.125, norm_cfg=norm, init_cfg=None),
    neck=dict(in_channels=[32, 64, 128], out_channels=32, norm_cfg=norm),
    bbox_head=dict(in_channels=32, feat_channels=32, norm_cfg=norm, num_classes=10),
)
"""
# SiLU, depthwise convolutions
YOLOX = """
_base_ = 'mmdet::yolox/yolox_nano_8xb8-300e_coco.py'
model = dict(
    data_preprocessor=dict(batch_augments=None),
    backbone=dict(widen_factor=0.125),
    neck=dict(in_channels=[32, 64, 128], out_channels=32),
    bbox_head=dict(in_channels=32, feat_channels=32, num_classes=10),
)
"""


def model_of(tmp_path, text):
    (tmp_path / 'c.py').write_text((BACKBONE if 'backbone=backbone' in text else '') + text)
    return Config.fromfile(str(tmp_path / 'c.py')).model


def traced(tmp_path, text, side):
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(model_of(tmp_path, text))
    return trace_at_any_size(model, torch.randn(1, 3, side, side))[0]


def test_both_stages_of_a_two_stage_detector_are_in_the_graph(tmp_path):
    graph = traced(tmp_path, FASTER_RCNN, 128)
    assert {
        'backbone.layer1.0.conv1',
        'neck.fpn_convs.0.conv',
        'rpn_head.rpn_conv',
        'roi_head.bbox_head.shared_fcs.0',
        'roi_head.bbox_head.shared_fcs.1',
    } <= graph.groups.keys()
    readers = {m.layer for m in graph.groups['neck.fpn_convs.0.conv'].readers}
    assert readers == {'rpn_head.rpn_conv', 'roi_head.bbox_head.shared_fcs.0'}


def test_a_second_stage_without_a_first_is_in_the_graph(tmp_path):
    """Fast R-CNN, whose proposals come with the data."""
    graph = traced(tmp_path, FASTER_RCNN + 'model.update(rpn_head=None)\n', 128)
    readers = graph.groups['neck.fpn_convs.0.conv'].readers
    assert {member.layer for member in readers} == {'roi_head.bbox_head.shared_fcs.0'}


def test_what_both_stages_of_a_detector_read_is_cut_and_put_back(tmp_path):
    """mmdet's RoI extractor makes memory for the width that the config says."""
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(model_of(tmp_path, FASTER_RCNN)).eval()
    batch = dict(inputs=[picture()['inputs']], data_samples=[picture()['data_samples']])
    graph = trace_channel_graph(model, torch.randn(1, 3, 128, 128), forward_tensors)
    plans = [
        plan_from_keep_masks(
            model, graph.groups, {'neck.fpn_convs.0.conv': torch.arange(16) < kept}
        )
        for kept in (9, 6)
    ]
    extractor = model.roi_head.bbox_roi_extractor
    for plan, width in zip(plans, (9, 6)):
        restore = apply_plan(model, plan)
        copied = copy.deepcopy(model)
        copied.test_step(batch)
        assert copied.roi_head.bbox_roi_extractor.out_channels == width
        model.test_step(batch)
        restore()
        assert extractor.out_channels == 16
        model.test_step(batch)
    apply_plan(model, plans[0])
    model.test_step(batch)
    again = trace_channel_graph(model, torch.randn(1, 3, 128, 128), forward_tensors)
    keep = {'neck.fpn_convs.0.conv': torch.arange(9) < 6}
    restore = apply_plan(model, plan_from_keep_masks(model, again.groups, keep))
    model.test_step(batch)
    restore()
    assert extractor.out_channels == 9


@pytest.mark.parametrize('aggregation', ['sum', 'concat'])
def test_what_a_generic_extractor_pools_stays_whole_and_says_why(tmp_path, aggregation):
    """Its memory has the width that the config says, and it adds or joins levels there."""
    width = 16 * (4 if aggregation == 'concat' else 1)
    graph = traced(
        tmp_path,
        f"""{FASTER_RCNN}
model['roi_head'].update(
    bbox_roi_extractor=dict(
        type='GenericRoIExtractor', aggregation='{aggregation}', out_channels={width}
    ),
    bbox_head=dict(in_channels={width}, fc_out_channels=24, num_classes=10),
)
""",
        128,
    )
    why = [graph.skipped[f'neck.fpn_convs.{level}.conv'] for level in range(4)]
    assert all('fixed size' in reason for reason in why), why
    assert 'neck.fpn_convs.0.conv' not in graph.groups
    assert {'backbone.layer1.0.conv1', 'roi_head.bbox_head.shared_fcs.0'} <= graph.groups.keys()


SPARSE_RCNN = """
_base_ = 'mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py'
model = dict(backbone=backbone, neck=dict(in_channels=[8, 16, 32, 64]))
"""
YOLACT = """
_base_ = 'mmdet::yolact/yolact_r50_1xb8-55e_coco.py'
model = dict(backbone=backbone, neck=dict(in_channels=[8, 16, 32, 64]))
"""


@pytest.mark.parametrize('text', [SPARSE_RCNN, YOLACT], ids=['queries', 'masks of objects'])
def test_what_a_part_out_of_sight_reads_stays_whole(tmp_path, text):
    graph = traced(tmp_path, text, 128)
    assert {'backbone.layer1.0.conv1', 'backbone.layer4.0.conv2'} <= graph.groups.keys()
    assert 'an output' in graph.skipped['neck.fpn_convs.0.conv']
    assert 'neck.fpn_convs.0.conv' not in graph.groups


def test_a_solo_is_looked_at_before_its_nms(tmp_path):
    """Which keeps what equals the largest of its neighbours: here all are equal."""
    init_default_scope('mmdet')
    text = """
_base_ = 'mmdet::solo/solo_r50_fpn_1x_coco.py'
backbone.update(norm_cfg=dict(type='BN'))
model = dict(
    backbone=backbone,
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    mask_head=dict(in_channels=16, feat_channels=32),
)
"""
    model = MODELS.build(model_of(tmp_path, text)).eval()
    _, scores = forward_tensors(model, torch.randn(1, 3, 64, 64))
    assert all((level < 0).any() for level in scores)  # logits, of which none was left out
    assert not model.mask_head.training


def test_the_backbone_of_a_detr_is_in_the_graph(tmp_path):
    graph = traced(tmp_path, DETR, 64)
    assert {'backbone.layer1.0.conv1', 'backbone.layer4.0.conv2'} <= graph.groups.keys()
    assert 'encoder.layers.0.ffn.layers.0.0' in graph.groups
    assert 'fixed size' in graph.skipped['encoder.layers.0.ffn.layers.1']  # the stream


def test_a_mask_former_is_in_the_graph(tmp_path):
    text = """
_base_ = 'mmdet::maskformer/maskformer_r50_ms-16xb1-75e_coco.py'
model = dict(
    backbone=backbone,
    panoptic_head=dict(
        in_channels=[8, 16, 32, 64],
        pixel_decoder=dict(encoder=dict(num_layers=1)),
        transformer_decoder=dict(num_layers=1),
    ),
)
"""
    groups = traced(tmp_path, text, 64).groups
    assert {
        'backbone.layer4.0.conv2',
        'panoptic_head.pixel_decoder.encoder.layers.0.ffn.layers.0.0',
        'panoptic_head.transformer_decoder.layers.0.ffn.layers.0.0',
        'panoptic_head.mask_embed.0',
    } <= groups.keys()


class Kill(Hook):
    """After the runner has initialised the weights, in the model and in its average."""

    @torch.no_grad()
    def before_train(self, runner):
        for model in (runner.model, average_of(runner)):
            kill_channels(model.backbone.layer2[0].bn1, [1, 4, 5])
            if hasattr(model, 'roi_head'):
                first = model.roi_head.bbox_head.shared_fcs[0]
                for layer, channels in ((model.rpn_head.rpn_conv, [3]), (first, [0, 2])):
                    layer.weight[channels], layer.bias[channels] = 0, -1


def picture():
    shape = (64, 96)
    meta = dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0))
    sample = DetDataSample(metainfo=meta)
    boxes = torch.tensor([[8.0, 8, 40, 40]])
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([3]))
    return dict(inputs=torch.randint(0, 255, (3, *shape), dtype=torch.uint8), data_samples=sample)


def train_detector(tmp_path, text, hooks, iters=3, **optim_wrapper):
    """The runner and what it has said."""
    model = model_of(tmp_path, text)
    return train_model(tmp_path, model, 'mmdet', picture, hooks, iters, optim_wrapper or slow())


def train_model(tmp_path, model, scope, sample, hooks, iters, optim_wrapper):
    torch.manual_seed(0)
    runner = Runner(
        model,
        str(tmp_path),
        default_scope=scope,
        log_level='WARNING',
        experiment_name=tmp_path.name,
        custom_hooks=hooks,
        default_hooks=dict(checkpoint=None),
        train_dataloader=dict(
            batch_size=2,
            dataset=[sample() for _ in range(2)],
            collate_fn=dict(type='pseudo_collate'),
            sampler=dict(type='InfiniteSampler', shuffle=False),
        ),
        train_cfg=dict(by_epoch=False, max_iters=iters),
        optim_wrapper=optim_wrapper,
    )
    messages = messages_of(runner)
    runner.train()
    return runner, messages


def killing_hooks():
    return [demp(interval=2, num_samples=2), dict(EMA, priority='VERY_HIGH'), Kill()]


def test_a_two_stage_detector_is_pruned_while_it_trains(tmp_path):
    runner, _ = train_detector(tmp_path, FASTER_RCNN, killing_hooks())
    for model in (runner.model, average_of(runner)):
        assert model.backbone.layer2[0].conv1.out_channels == 13
        assert model.rpn_head.rpn_conv.out_channels == 15
        assert model.roi_head.bbox_head.shared_fcs[0].out_features <= 22
    with torch.no_grad():
        outputs = forward_tensors(runner.model.eval(), torch.randn(1, 3, 128, 128))
    assert len(outputs) == 2


@pytest.mark.parametrize(
    'text', [pytest.param(DINO, marks=pytest.mark.slow), AUTOASSIGN], ids=['DINO', 'AutoAssign']
)
def test_detectors_with_layers_for_training_are_pruned(tmp_path, text):
    runner, messages = train_detector(tmp_path, text, killing_hooks())
    assert runner.model.backbone.layer2[0].conv1.out_channels <= 13
    assert not [m for m in messages if 'backbone' in m and 'is left whole:' in m]


@pytest.mark.slow
@pytest.mark.parametrize(
    'text, least_groups',
    [(RETINANET, 18), (FIXED_NORMS, 18), (FASTER_RCNN, 14), (RTMDET, 20), (YOLOX, 20)],
    ids=['RetinaNet', 'fixed norms', 'Faster R-CNN', 'RTMDet', 'YOLOX'],
)
def test_one_line_halves_a_detector(tmp_path, text, least_groups):
    """With neck and head: without norm layers, with any activation."""
    hooks = [dict(type='DemPHook', budget=dict(flops=0.5)), dict(EMA)]
    wrapper = dict(optimizer=dict(type='AdamW', lr=1e-4), clip_grad=dict(max_norm=10))
    runner, messages = train_detector(tmp_path, text, hooks, iters=52, **wrapper)
    cut = layers_cut_to_half(runner, messages)
    assert len(cut) >= least_groups
    assert {name.partition('.')[0] for name in cut} >= {'backbone', 'neck'}
    assert not any('stay whole' in m for m in messages)


def layers_cut_to_half(runner, messages):
    assert any('is met' in m for m in messages)
    events = [m for m in messages if m.startswith('prune event')]
    assert len(events) == 2
    pruner = next(h.pruner for h in runner.hooks if hasattr(h, 'pruner'))
    assert abs(pruner.progress.left['macs'] / 0.5 - 1) <= 0.02
    return {line.partition(':')[0].strip() for e in events for line in e.split('\n')[1:]}


@pytest.mark.slow
@pytest.mark.parametrize('norm', ['BN', 'psBN'])
def test_one_line_halves_a_classifier(tmp_path, norm):
    """ResNet-20 for CIFAR, of mmpretrain."""

    def labelled():
        sample = DataSample().set_gt_label(torch.randint(10, ()))
        return dict(
            inputs=torch.randint(0, 255, (3, 32, 32), dtype=torch.uint8), data_samples=sample
        )

    model = Config.fromfile('configs/cifar/resnet20_bn_cifar10_in_memory.py').model
    model.backbone.norm_cfg.type = norm
    optimizer = dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4)
    hooks = [dict(type='DemPHook', budget=dict(flops=0.5))]
    trained = train_model(
        tmp_path, model, 'mmpretrain', labelled, hooks, 52, dict(optimizer=optimizer)
    )
    # the first layers of nine blocks: the shortcuts, padded with zeros, keep the stages whole
    assert len(layers_cut_to_half(*trained)) == 9
