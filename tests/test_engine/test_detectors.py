"""DemPHook on detectors that do not run on images alone."""

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from toy import kill_channels

from mmpsbn.datasets import write_digits_dataset
from mmpsbn.engine.openmmlab import forward_tensors, trace_at_any_size
from mmpsbn.engine.runner_parts import averaged_models_of

ROOT_CONFIG = """
_base_ = {base!r}
backbone = dict(depth=18, base_channels=8, frozen_stages=-1, norm_eval=False, init_cfg=None)
model = dict(
    backbone=dict(norm_cfg=dict(requires_grad=True), **backbone),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=24, num_classes=10),
    ),
)
"""

DETR_CONFIG = """
_base_ = 'mmdet::detr/detr_r50_8xb2-150e_coco.py'
model = dict(
    backbone=dict(depth=18, base_channels=8, init_cfg=None),
    neck=dict(in_channels=[64]),
    encoder=dict(num_layers=1),
    decoder=dict(num_layers=1),
)
"""


@pytest.fixture(scope='module')
def faster_rcnn(tmp_path_factory):
    folder = tmp_path_factory.mktemp('detector')
    (folder / 'c.py').write_text(
        ROOT_CONFIG.format(base='mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    )
    write_digits_dataset(f'{folder}/digits/', num_train=8, num_val=4, image_size=(160, 128), seed=0)
    return folder, Config.fromfile(str(folder / 'c.py'))


def test_both_stages_of_a_two_stage_detector_are_in_the_graph(faster_rcnn):
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(faster_rcnn[1].model)
    graph, _ = trace_at_any_size(model, torch.randn(1, 3, 128, 128))
    assert {
        'backbone.layer1.0.conv1',
        'neck.fpn_convs.0.conv',
        'rpn_head.rpn_conv',
        'roi_head.bbox_head.shared_fcs.0',
        'roi_head.bbox_head.shared_fcs.1',
    } <= graph.groups.keys()
    readers = {m.layer for m in graph.groups['neck.fpn_convs.0.conv'].readers}
    assert readers == {'rpn_head.rpn_conv', 'roi_head.bbox_head.shared_fcs.0'}


def test_the_backbone_of_a_detr_is_in_the_graph(tmp_path):
    (tmp_path / 'c.py').write_text(DETR_CONFIG)
    init_default_scope('mmdet')
    model = MODELS.build(Config.fromfile(str(tmp_path / 'c.py')).model)
    graph, _ = trace_at_any_size(model, torch.randn(1, 3, 64, 64))
    assert {'backbone.layer1.0.conv1', 'backbone.layer4.0.conv2'} <= graph.groups.keys()
    assert 'encoder.layers.0.ffn.layers.0.0' in graph.groups
    assert 'fixed size' in graph.skipped['encoder.layers.0.ffn.layers.1']  # the stream


class Kill(Hook):
    """After the runner has initialised the weights, in the model and in its average."""

    @torch.no_grad()
    def before_train(self, runner):
        for model in (runner.model, *averaged_models_of(runner)):
            kill_channels(model.backbone.layer2[0].bn1, [1, 4, 5])
            for layer, channels in (
                (model.rpn_head.rpn_conv, [3]),
                (model.roi_head.bbox_head.shared_fcs[0], [0, 2]),
            ):
                layer.weight[channels], layer.bias[channels] = 0, -1


def test_a_two_stage_detector_is_pruned_while_it_trains(faster_rcnn, tmp_path):
    folder, cfg = faster_rcnn
    quick = Config.fromfile('configs/quickstart/retinanet_r18_psbn_demp_digits.py')
    loader = quick.train_dataloader
    loader.batch_size = 2
    loader.dataset.data_root = f'{folder}/digits/'
    runner = Runner(
        model=cfg.model,
        work_dir=str(tmp_path),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=False, max_iters=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3, momentum=0.9)),
        custom_hooks=[
            Kill(),
            dict(
                type='DemPHook',
                penalty=dict(peak=0.0),
                noise=dict(peak_std=0.0),
                prune=dict(interval=1, num_samples=2),
            ),
            dict(type='EMAHook'),
        ],
        default_scope='mmdet',
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=False)),
        experiment_name='faster_rcnn',
    )
    model = runner.model
    runner.train()
    assert model.backbone.layer2[0].conv1.out_channels == 13
    assert (
        model.rpn_head.rpn_conv.out_channels == 15
        and model.roi_head.bbox_head.shared_fcs[0].out_features <= 22
    )
    with torch.no_grad():
        outputs = forward_tensors(model.eval(), torch.randn(1, 3, 128, 128))
    assert len(outputs) == 2
