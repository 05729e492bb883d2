"""Torch-Pruning's arm: what it cut is a plan of ours, and the training goes on with the rest."""

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.logging import MMLogger
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData
from torch import nn
from trained import ROOT

from mmpsbn.engine.checkpoints.pruned_checkpoint_hook import PrunedCheckpointHook
from mmpsbn.engine.openmmlab import forward_tensors
from mmpsbn.experiments import torch_pruning_hook
from mmpsbn.experiments.catalogue._shared import NARROW
from mmpsbn.experiments.torch_pruning_hook import TorchPruningHook
from mmpsbn.pruning import apply_plan
from mmpsbn.pruning.cost import count_positions, model_cost
from mmpsbn.pruning.forward import tensors_in

IMAGE = torch.arange(3 * 64 * 64).reshape(1, 3, 64, 64) % 251 / 50 - 2.5
CUTS = 10, 20  # of 200 iterations


@pytest.fixture
def runner():
    """Of a RetinaNet whose head is shared by its levels, with running statistics of its own."""
    register_all_modules(init_default_scope=False)
    init_default_scope('mmdet')
    config = Config.fromfile(f'{ROOT}/configs/quickstart/retinanet_r18_psbn_digits.py')
    config.merge_from_dict(NARROW | {'model.backbone.init_cfg': None})
    torch.manual_seed(0)
    model = MODELS.build(config.model).train()
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    model.backbone.conv1.weight.requires_grad = False
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-3)
    return SimpleNamespace(
        model=model,
        optim_wrapper=OptimWrapper(optimizer),
        logger=MMLogger.get_instance('torch_pruning'),
        hooks=[PrunedCheckpointHook()],
        max_iters=200,
        iter=0,
    )


def plan_of(runner):
    return runner.hooks[0].structure.plan


def a_batch(side=64):
    boxes = InstanceData(bboxes=torch.tensor([[8.0, 8, 40, 40]]), labels=torch.tensor([1]))
    shape = dict(img_shape=(side, side), pad_shape=(side, side))
    picture = (torch.arange(3 * side * side).reshape(3, side, side) % 256).to(torch.uint8)
    sample = DetDataSample(metainfo=shape, gt_instances=boxes)
    return dict(inputs=[picture], data_samples=[sample])


def cut(runner, hook, *events, **batch):
    hook.before_train(runner)
    for event in events:
        runner.iter = event - 1
        hook.after_train_iter(runner, runner.iter, a_batch(**batch))


@torch.no_grad()
def outputs_of(model):
    return list(tensors_in(forward_tensors(deepcopy(model).eval(), IMAGE)))


def left(model, dense):
    positions = count_positions(dense, IMAGE, forward_tensors)
    return model_cost(model, positions).macs / model_cost(dense, positions).macs


def test_its_plan_makes_of_the_dense_net_the_one_that_it_cut(runner):
    dense = deepcopy(runner.model)
    cut(runner, TorchPruningHook(0.3, round_to=2), 9, *CUTS, 21)
    fresh = deepcopy(dense)
    apply_plan(fresh, plan_of(runner))
    for ours, theirs in zip(outputs_of(fresh), outputs_of(runner.model), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert left(fresh, dense) == pytest.approx(0.3, abs=0.07)  # as near as pairs of channels come
    convolutions = [m for m in fresh.modules() if isinstance(m, nn.Conv2d)]
    outputs = (fresh.bbox_head.retina_cls, fresh.bbox_head.retina_reg)
    assert all(m.out_channels % 2 == 0 for m in convolutions if m not in outputs)


def test_it_cuts_in_equal_steps_to_any_width_but_in_the_end_and_goes_on_after_a_resume(runner):
    dense = deepcopy(runner.model)
    cut(runner, TorchPruningHook(0.4, round_to=4), CUTS[0])
    assert left(runner.model, dense) == pytest.approx(0.7, abs=0.05)
    # another hook, and pictures of another size
    cut(runner, TorchPruningHook(0.4, round_to=1), CUTS[1], side=96)
    assert left(runner.model, dense) == pytest.approx(0.4, abs=0.05)


def test_the_optimizer_goes_on_with_what_is_left(runner):
    optimizer = runner.optim_wrapper.optimizer
    runner.model.train_step(a_batch(), runner.optim_wrapper)
    assert optimizer.state
    cut(runner, TorchPruningHook(0.5, round_to=2), CUTS[1])
    (group,) = optimizer.param_groups
    assert list(map(id, group['params'])) == list(map(id, runner.model.parameters()))
    assert group['weight_decay'] == 1e-3
    assert set(optimizer.state) <= set(group['params'])
    frozen = [n for n, p in runner.model.named_parameters() if not p.requires_grad]
    assert frozen == ['backbone.conv1.weight']
    before = deepcopy(runner.model.state_dict())
    runner.model.train_step(a_batch(), runner.optim_wrapper)
    moved = {n for n, of in runner.model.state_dict().items() if not torch.equal(of, before[n])}
    assert {'bbox_head.cls_convs.0.conv.weight', 'backbone.layer1.0.conv1.weight'} <= moved
    assert 'backbone.conv1.weight' not in moved


def test_modes_stay_and_nothing_goes_where_each_ratio_takes_too_much(runner):
    runner.model.backbone.bn1.eval()
    modes = [module.training for module in runner.model.modules()]
    cut(runner, TorchPruningHook(0.9, round_to=8), CUTS[1])
    assert [module.training for module in runner.model.modules()] == modes
    assert not plan_of(runner)


def test_what_a_plan_cannot_say_is_refused():
    init_default_scope('mmdet')

    class Net(nn.Module):
        """Multiplies by a parameter that no layer holds."""

        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
            self.scale = nn.Parameter(torch.ones(1, 8, 1, 1))

        def forward(self, inputs, mode='tensor'):
            return self.last(self.first(inputs) * self.scale)

    with pytest.raises(RuntimeError, match=r"has pruned \['scale'\] in a way"):
        torch_pruning_hook._prune(Net(), 0.5, IMAGE, None, outputs=['last'])


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (dict(model=nn.DataParallel(nn.Linear(1, 1))), 'one device'),
        (dict(hooks=[EMAHook()]), 'take EMAHook out'),
        (dict(hooks=[]), 'PrunedCheckpointHook, which this run lacks'),
    ],
)
def test_runs_that_it_cannot_prune_are_refused(runner, change, words):
    for hook in change.get('hooks', ()):
        hook.ema_model = ExponentialMovingAverage(runner.model)
    with pytest.raises(ValueError, match=words):
        TorchPruningHook(0.5, round_to=1).before_train(SimpleNamespace(**vars(runner) | change))


def test_macs_are_a_fraction():
    with pytest.raises(ValueError, match=r'in \(0, 1\), got 50'):
        TorchPruningHook(50, round_to=1)
