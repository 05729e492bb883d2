"""Weights of a pruned model are loaded where they fit, and refused everywhere else."""

import pytest
import torch
from mmdet.apis import DetInferencer, init_detector
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from torch import nn
from toy import ToyNet, kill_channels, toy_runner

from mmpsbn.commands.model_files import save_weights
from mmpsbn.engine.openmmlab import trace_at_any_size
from mmpsbn.pruning import apply_plan, prune_dead_channels
from mmpsbn.pruning.plan import plan_from_keep_masks

LOADS = dict(type='PrunedCheckpointHook')
DEMP = dict(type='DemPHook', prune=dict(interval=8, num_samples=8))
DETECTOR = """
_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
model = dict(
    backbone=dict(base_channels=8, init_cfg=None),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16),
)
"""


@pytest.fixture(scope='module')
def pruned():
    """A pruned model and the plan that led to it."""
    torch.manual_seed(0)
    model = ToyNet()
    kill_channels(model.blocks[0].bn1, [1, 3])
    kill_channels(model.blocks[1].bn1, [0])
    batch = torch.randn(2, 3, 8, 8)
    result = prune_dead_channels(model, [batch], forward_fn=lambda m, b: m(b))
    return model, result.plan


def with_plan(pruned):
    model, plan = pruned
    return dict(state_dict=model.state_dict(), meta=dict(mmpsbn=dict(plan=plan.to_dict())))


def load(pruned, folder, checkpoint, hook, *, trains):
    """The runner that has loaded it, to test or to train on."""
    path = str(folder / 'pruned.pth')
    torch.save(checkpoint, path)
    runner = toy_runner(folder, [hook], epochs=2, load_from=path if trains else None)
    runner.train() if trains else runner.load_checkpoint(path)
    return runner


@pytest.mark.parametrize('hook', [LOADS, DEMP])
@pytest.mark.parametrize('trains', [False, True])
@pytest.mark.parametrize('kind', ['bare', 'wrapped', 'without meta'])
def test_a_pruned_state_dict_without_its_plan_is_an_error(tmp_path, pruned, kind, trains, hook):
    state = pruned[0].state_dict()
    checkpoint = dict(bare=state, wrapped=dict(state_dict=state)).get(
        kind, dict(state_dict=state, meta=None)
    )
    with pytest.raises(ValueError, match=r'^blocks.0.conv1.weight has shape \(10, 8, 3, 3\) in'):
        load(pruned, tmp_path, checkpoint, hook, trains=trains)


@pytest.mark.parametrize('width', [dict(classes=3), dict(classes=6)])
def test_a_dense_state_dict_of_other_classes_still_loads(tmp_path, width):
    other = ToyNet(**width)
    runner = load(None, tmp_path, other.state_dict(), LOADS, trains=True)
    assert runner.model.fc.out_features == 4


def test_a_narrower_dense_model_loads_what_fits_in_the_way_that_the_error_names(tmp_path):
    narrow = ToyNet(inner=6)
    with pytest.raises(ValueError, match=r'To load no more than fits, use model.init_cfg=dict\('):
        load(None, tmp_path, narrow.state_dict(), LOADS, trains=True)
    model = ToyNet()
    model.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'pruned.pth'))
    model.init_weights()
    assert torch.equal(model.stem.weight, narrow.stem.weight)
    assert model.blocks[0].conv1.out_channels == 12


@pytest.mark.parametrize('checkpoint', [dict(meta=None), dict(meta='?'), {}])
def test_a_strange_meta_is_not_a_plan(tmp_path, checkpoint):
    state = ToyNet().state_dict()
    load(None, tmp_path, dict(state_dict=state, **checkpoint), LOADS, trains=False)


class Block(BaseModule):
    def __init__(self, path):
        super().__init__(dict(type='Pretrained', checkpoint=path, prefix='blocks.0.'))
        self.conv1 = nn.Conv2d(8, 12, 3, padding=1, bias=False)


def test_any_loader_refuses_a_plan_that_was_not_applied(tmp_path, pruned):
    path = str(tmp_path / 'pruned.pth')
    torch.save(with_plan(pruned), path)
    model, block = ToyNet(), Block(path)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match='^blocks.0.conv1.weight is pruned to shape'):
        load_checkpoint(model, path)
    with pytest.raises(ValueError, match='^conv1.weight is pruned to .* mmpsbn export'):
        block.init_weights()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    apply_plan(model, pruned[1])
    load_checkpoint(model, path)
    assert torch.equal(model.stem.weight, pruned[0].stem.weight)


def test_init_cfg_goes_the_way_that_the_error_names(tmp_path, pruned):
    """Where the config has the hook already, which does not see what init_cfg loads."""
    path = str(tmp_path / 'pruned.pth')
    torch.save(with_plan(pruned), path)
    model = ToyNet()
    model.init_cfg = dict(type='Pretrained', checkpoint=path)
    runner = toy_runner(tmp_path, [LOADS], model=model, epochs=1)
    with pytest.raises(ValueError, match='for init_cfg and init_detector write a config and wei'):
        runner.train()
    shapes = {name: value.shape for name, value in pruned[0].state_dict().items()}
    exported = MODELS.build(dict(type='PrunedModel', dense_type='ToyNet', shapes=shapes))
    save_weights(pruned[0], path)
    exported.init_cfg = dict(type='Pretrained', checkpoint=path)
    exported.init_weights()
    assert torch.equal(exported.stem.weight, pruned[0].stem.weight)


def test_a_bare_state_dict_is_not_refused_in_a_run_without_a_hook_that_loads_it(tmp_path, pruned):
    path = str(tmp_path / 'pruned.pth')
    torch.save(pruned[0].state_dict(), path)
    runner = toy_runner(tmp_path, [dict(type='SparsityHook')], epochs=1)
    runner.load_checkpoint(path)
    assert torch.equal(runner.model.stem.weight, pruned[0].stem.weight)
    assert runner.model.blocks[0].conv1.out_channels == 12


@pytest.mark.parametrize('detector', [init_detector, DetInferencer])
def test_inference_refuses_a_plan_that_was_not_applied(tmp_path, detector):
    (tmp_path / 'c.py').write_text(DETECTOR)
    init_default_scope('mmdet')
    model = MODELS.build(Config.fromfile(str(tmp_path / 'c.py')).model)
    groups = trace_at_any_size(model, torch.randn(1, 3, 64, 64))[0].groups
    name = 'backbone.layer1.0.conv1'
    groups = {name: groups[name]}
    plan = plan_from_keep_masks(model, groups, {name: torch.arange(8) > 2})
    apply_plan(model, plan)
    path = str(tmp_path / 'pruned.pth')
    meta = dict(mmpsbn=dict(plan=plan.to_dict()), dataset_meta=dict(classes=('a',) * 80))
    save_weights(model, path, **meta)
    with pytest.raises(ValueError, match=f'^{name}.weight is pruned to shape'):
        detector(str(tmp_path / 'c.py'), path, device='cpu')
