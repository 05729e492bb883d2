"""Torch-Pruning's arm: what it cut is a plan of ours, and the training goes on with the rest."""

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData
from torch import nn
from trained import ROOT

from mmpsbn.engine.openmmlab import forward_tensors
from mmpsbn.experiments.catalogue._detector import NARROW
from mmpsbn.experiments.torch_pruning_hook import TorchPruningHook
from mmpsbn.pruning import PrunePlan, apply_plan
from mmpsbn.pruning.cost import count_positions, model_cost
from mmpsbn.pruning.forward import tensors_in

IMAGE = torch.arange(3 * 64 * 64).reshape(1, 3, 64, 64) % 251 / 50 - 2.5


@pytest.fixture
def runner():
    """Of a RetinaNet whose head is shared by its levels, with running statistics of its own."""
    register_all_modules(init_default_scope=False)
    init_default_scope('mmdet')
    config = Config.fromfile(f'{ROOT}/configs/quickstart/retinanet_r18_psbn_digits.py')
    config.merge_from_dict(NARROW | {'model.backbone.init_cfg': None})
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-3)
    return SimpleNamespace(
        model=model.train(),
        optim_wrapper=OptimWrapper(optimizer),
        logger=MMLogger.get_instance('torch_pruning'),
        iter=0,
    )


def a_batch():
    boxes = InstanceData(bboxes=torch.tensor([[8.0, 8, 40, 40]]), labels=torch.tensor([1]))
    sample = DetDataSample(
        metainfo=dict(img_shape=(64, 64), pad_shape=(64, 64)), gt_instances=boxes
    )
    picture = (torch.arange(3 * 64 * 64).reshape(3, 64, 64) % 256).to(torch.uint8)
    return dict(inputs=[picture], data_samples=[sample])


def train(runner, hook, iterations):
    for runner.iter in range(iterations):
        runner.model.train_step(a_batch(), runner.optim_wrapper)
        hook.after_train_iter(runner, runner.iter, a_batch())


@torch.no_grad()
def outputs_of(model):
    return list(tensors_in(forward_tensors(deepcopy(model).eval(), IMAGE)))


def plan_saved_by(hook, runner):
    checkpoint = dict(meta={})
    hook.before_save_checkpoint(runner, checkpoint)
    return PrunePlan.from_dict(checkpoint['meta']['mmpsbn']['plan'])


@pytest.mark.parametrize('importance', ['magnitude', 'taylor'])
def test_its_plan_makes_of_the_dense_net_the_one_that_it_cut(runner, importance):
    dense = deepcopy(runner.model)
    hook = TorchPruningHook(0.3, at=(1, 2), importance=importance, round_to=2)
    train(runner, hook, 3)
    fresh = deepcopy(dense)
    apply_plan(fresh, plan_saved_by(hook, runner))
    fresh.load_state_dict(runner.model.state_dict())
    for ours, theirs in zip(outputs_of(fresh), outputs_of(runner.model), strict=True):
        torch.testing.assert_close(ours, theirs)
    positions = count_positions(dense, IMAGE, forward_tensors)
    left = model_cost(fresh, positions).macs / model_cost(dense, positions).macs
    assert 0.2 < left <= 0.3
    # those that stay are the dense net's own
    plan = plan_saved_by(hook, runner)
    assert {dim for kept in plan.kept.values() for dim in kept} == {0, 1}


def test_the_optimizer_goes_on_with_what_is_left(runner):
    hook = TorchPruningHook(0.5, at=(1,), round_to=2)
    train(runner, hook, 1)
    optimizer = runner.optim_wrapper.optimizer
    (group,) = optimizer.param_groups
    assert list(map(id, group['params'])) == list(map(id, runner.model.parameters()))
    assert group['weight_decay'] == 1e-3
    assert set(optimizer.state) <= set(group['params'])
    before = deepcopy(runner.model.state_dict())
    train(runner, hook, 1)
    moved = [n for n, of in runner.model.state_dict().items() if not torch.equal(of, before[n])]
    assert 'bbox_head.cls_convs.0.conv.weight' in moved


def test_it_leaves_modes_and_gradients_as_they_were_and_cuts_at_its_iterations_alone(runner):
    hook = TorchPruningHook(0.5, at=(2,), importance='taylor', round_to=2)
    width = runner.model.backbone.conv1.out_channels
    train(runner, hook, 1)
    assert runner.model.backbone.conv1.out_channels == width
    checkpoint = dict(meta={})
    hook.before_save_checkpoint(runner, checkpoint)
    assert checkpoint == dict(meta={})
    runner.model.backbone.bn1.eval()
    modes = [module.training for module in runner.model.modules()]
    runner.iter = 1
    hook.after_train_iter(runner, 1, a_batch())
    assert runner.model.backbone.conv1.out_channels < width
    assert [module.training for module in runner.model.modules()] == modes
    assert all(parameter.grad is None for parameter in runner.model.parameters())
