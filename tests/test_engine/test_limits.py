"""Where DemPHook must hold back: what it cannot see, cannot trust or cannot load."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import HOOKS, MODELS, OPTIM_WRAPPERS
from torch import nn
from torch.nn import functional as F
from toy import ToyNet, kill_channels, toy_runner

from mmpsbn.engine import openmmlab
from mmpsbn.engine.demp.demp_hook import DemPHook
from mmpsbn.engine.demp.wrapper import check_wrapper
from mmpsbn.engine.openmmlab import forward_tensors, trace_at_any_size
from mmpsbn.layers import calls_step_hooks
from mmpsbn.pruning import trace_channel_graph
from mmpsbn.pruning.activation import ActivationWindow

QUIET = dict(penalty=dict(peak=0.0), noise=dict(peak_std=0.0))
DEMP = dict(type='DemPHook', prune=dict(interval=6, num_samples=16), **QUIET)
STREAM = ('norm', 'blocks.0.bn2', 'blocks.1.bn2')


def inner_widths(model):
    return [block.conv1.out_channels for block in model.blocks]


def pruner_of(runner):
    return next(h.pruner for h in runner.hooks if isinstance(h, DemPHook))


def messages_of(runner):
    messages = []
    runner.logger.handlers.append(
        SimpleNamespace(level=0, handle=lambda record: messages.append(record.getMessage()))
    )
    return messages


@MODELS.register_module(force=True)
class AuxNet(ToyNet):
    """Has a head that runs in training only."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.aux = nn.Linear(8, 4)

    def forward(self, inputs, labels=None, mode='tensor'):
        if mode == 'loss':
            x = F.relu(self.norm(self.stem(inputs)))
            aux = F.cross_entropy(self.aux(self.blocks[0](x).mean((2, 3))), labels)
            return dict(super().forward(inputs, labels, mode), aux_loss=aux)
        return super().forward(inputs, labels, mode)


@MODELS.register_module(force=True)
class IdleBranchNet(ToyNet):
    """Has a branch, on the first block's inner channels, that does not run in training."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.branch = nn.Conv2d(12, 2, 1)

    def forward(self, inputs, labels=None, mode='tensor'):
        out = super().forward(inputs, labels, mode)
        if mode == 'loss':
            return out
        block = self.blocks[0]
        x = F.relu(self.norm(self.stem(inputs)))
        return out, self.branch(F.relu(block.bn1(block.conv1(x))))


@HOOKS.register_module(force=True)
class KillLater(Hook):
    """Kills channels of the model when EMAHook has copied it, before the window opens."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 2:
            kill_channels(runner.model.blocks[0].bn1, [1, 3])


def test_a_reader_that_does_not_run_in_training_keeps_its_group_whole(tmp_path):
    runner = toy_runner(tmp_path, [DEMP], model=dict(type='IdleBranchNet'))
    messages = messages_of(runner)
    for block in runner.model.blocks:
        kill_channels(block.bn1, [1, 3])
    runner.train()
    assert inner_widths(runner.model) == [12, 10]
    assert any('left whole: branch reads it and does not run in training' in m for m in messages)


def test_nan_outputs_skip_the_event_and_blame_nobody(tmp_path):
    runner = toy_runner(tmp_path, [DEMP])
    messages = messages_of(runner)
    kill_channels(runner.model.blocks[0].bn1, [1, 3])
    with torch.no_grad():
        runner.model.fc.weight[0] = float('nan')
    runner.train()
    assert inner_widths(runner.model) == [12, 12]
    assert pruner_of(runner).state()['samples'] == 0  # none carries over
    assert sum('NaN or inf before pruning' in m for m in messages) == 2


def test_a_channel_that_still_speaks_in_the_average_stays(tmp_path):
    hooks = [DEMP, dict(type='EMAHook', momentum=1e-4), dict(type='KillLater')]
    runner = toy_runner(tmp_path, hooks)
    runner.train()
    assert inner_widths(runner.model) == [12, 12]
    alone = toy_runner(tmp_path / 'alone', [DEMP, dict(type='KillLater')])
    alone.train()
    assert inner_widths(alone.model) == [10, 12]
    ema = next(h for h in runner.hooks if isinstance(h, EMAHook)).ema_model.module
    assert inner_widths(ema) == [12, 12]


def test_a_run_without_an_event_is_refused(tmp_path):
    runner = toy_runner(tmp_path, [dict(type='DemPHook')])
    with pytest.raises(ValueError, match='no prune event fits into 16 iterations with inter'):
        runner.train()


def test_a_pruned_checkpoint_in_a_run_that_knows_nothing_of_it_is_refused(tmp_path):
    runner = toy_runner(tmp_path / 'a', [DEMP])
    kill_channels(runner.model.blocks[0].bn1, [1, 3])
    runner.train()
    other = toy_runner(tmp_path / 'b', [dict(type='SparsityHook')])
    before = {k: v.clone() for k, v in other.model.state_dict().items()}
    with pytest.raises(ValueError, match="is pruned to shape .*add dict\\(type='PrunedC"):
        other.load_checkpoint(str(tmp_path / 'a/epoch_4.pth'))
    for name, value in other.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_two_hooks_that_own_the_structure_are_refused(tmp_path):
    runner = toy_runner(tmp_path, [DEMP, dict(type='PrunedCheckpointHook')])
    with pytest.raises(ValueError, match='take PrunedCheckpointHook out of custom_hooks'):
        runner.train()


@pytest.mark.parametrize('hook', [DEMP, dict(type='PrunedCheckpointHook')])
def test_a_pruned_head_finetunes_to_other_classes(tmp_path, hook):
    runner = toy_runner(tmp_path / 'a', [DEMP])
    for name in STREAM:
        kill_channels(runner.model.get_submodule(name), [2])
    runner.train()
    assert runner.model.fc.weight.shape == (4, 7)
    other = toy_runner(
        tmp_path / 'b',
        [hook],
        model=dict(type='ToyNet', classes=6),
        load_from=str(tmp_path / 'a/epoch_4.pth'),
        epochs=2,
    )
    other.train()
    assert other.model.fc.weight.shape == (6, 7)
    assert other.model.stem.weight.shape[0] == 7


def test_a_fused_optimizer_under_amp_and_an_old_compiler_are_refused(monkeypatch):
    wrapper = AmpOptimWrapper.__new__(AmpOptimWrapper)
    wrapper.optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1)
    runner = SimpleNamespace(model=nn.Linear(1, 1), cfg={}, optim_wrapper=wrapper)
    check_wrapper(runner)
    wrapper.optimizer.param_groups[0]['fused'] = True
    with pytest.raises(TypeError, match='use fused=False'):
        check_wrapper(runner)
    wrapper.optimizer.param_groups[0]['fused'] = False
    runner.cfg['compile'] = True
    monkeypatch.setattr('mmpsbn.engine.demp.wrapper.TORCH_VERSION', '2.2.0')
    check_wrapper(runner)
    monkeypatch.setattr('mmpsbn.engine.demp.wrapper.TORCH_VERSION', '2.1.2+cu121')
    with pytest.raises(TypeError, match='train without compile'):
        check_wrapper(runner)


def test_a_finished_run_leaves_no_hook_behind(tmp_path):
    runner = toy_runner(tmp_path, [dict(DEMP, prune=dict(interval=12, num_samples=99))])
    runner.train()
    optimizer = runner.optim_wrapper.optimizer
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    assert not [m for m in runner.model.modules() if m._forward_pre_hooks]


def test_step_hooks_that_do_not_run_are_noticed_before_anything_is_pruned(tmp_path, monkeypatch):
    runner = toy_runner(tmp_path, [DEMP])
    kill_channels(runner.model.blocks[0].bn1, [1, 3])
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    unwrapped = torch.optim.SGD.step.__wrapped__  # as torch 2.1 does at the first torch.compile
    monkeypatch.setattr(unwrapped, 'hooked', True, raising=False)
    monkeypatch.setattr(torch.optim.SGD, 'step', unwrapped)
    with pytest.raises(RuntimeError, match='no step hook of the optimizer has run'):
        runner.train()
    assert inner_widths(runner.model) == [12, 12]


@pytest.mark.parametrize('kind', ['SGD', 'Adam', 'AdamW', 'RMSprop', 'LBFGS'])
def test_whether_step_hooks_run_is_found_out_without_a_step(kind):
    parameter = nn.Parameter(torch.ones(3))
    optimizer = getattr(torch.optim, kind)([parameter], lr=0.1)
    called = []
    optimizer.register_step_pre_hook(lambda *_: called.append('hook'))
    parameter.grad = torch.ones(3)
    assert calls_step_hooks(optimizer) and not called
    assert parameter.tolist() == [1, 1, 1] and not optimizer.state
    assert optimizer.param_groups[0]['params'] == [parameter]


@OPTIM_WRAPPERS.register_module(force=True)
class SkippedSteps(OptimWrapper):
    """As AMP does where gradients are not finite."""

    def step(self, **kwargs):
        pass


@pytest.mark.parametrize(
    'wrapper', [dict(accumulative_counts=7), dict(type='SkippedSteps')], ids=str
)
def test_an_event_that_no_step_precedes_prunes_and_says_so(tmp_path, wrapper):
    wrapper = dict(optimizer=dict(type='SGD', lr=0.05), **wrapper)
    runner = toy_runner(tmp_path, [DEMP], optim_wrapper=wrapper)
    messages = messages_of(runner)
    kill_channels(runner.model.blocks[0].bn1, [1, 3])
    runner.train()
    assert inner_widths(runner.model) == [10, 12]
    expected = 2 if 'type' in wrapper else 1  # the step at iteration 7 is before the second event
    assert sum('has taken no step since the last prune event' in m for m in messages) == expected


def test_a_run_resumed_within_an_accumulation_goes_on(tmp_path):
    wrapper = dict(optimizer=dict(type='SGD', lr=0.05), accumulative_counts=5)
    arguments = dict(
        hooks=[dict(DEMP, prune=dict(interval=9, num_samples=8))], optim_wrapper=wrapper, epochs=3
    )
    whole = toy_runner(tmp_path / 'whole', **arguments)
    kill_channels(whole.model.blocks[0].bn1, [1, 3])
    whole.train()
    second = str(tmp_path / 'whole/epoch_2.pth')  # 8 iterations; the next step is that of the 10th
    resumed = toy_runner(tmp_path / 'resumed', resume=True, load_from=second, **arguments)
    resumed.train()
    assert inner_widths(whole.model) == inner_widths(resumed.model) == [10, 12]


def test_the_event_says_on_how_many_samples_a_channel_was_dead(tmp_path):
    runner = toy_runner(tmp_path, [dict(DEMP, prune=dict(interval=4, num_samples=20))])
    runner.logger.setLevel('INFO')
    messages = messages_of(runner)
    runner.train()
    events = [m for m in messages if m.startswith('prune event')]
    assert len(events) == 4 and all('dead on 24 samples' in m for m in events)  # 3 batches of 8


def test_a_trace_does_not_write_into_an_open_window():
    torch.manual_seed(0)
    model = ToyNet()
    graph = trace_channel_graph(model, torch.randn(1, 3, 8, 8), forward_tensors)
    window = ActivationWindow(model, graph.groups, in_training_only=True)
    trace_channel_graph(model, torch.randn(1, 3, 8, 8), forward_tensors)
    assert window.ranges == {}


def test_activation_checkpointing_hides_nothing_from_the_trace():
    from mmdet.models import ResNet

    x = torch.randn(1, 3, 64, 64)
    plain, checkpointed = (
        trace_channel_graph(ResNet(18, with_cp=with_cp), x, lambda m, b: m(b))
        for with_cp in (False, True)
    )
    assert plain == checkpointed and len(plain.groups) == 8  # the streams are outputs


def test_what_the_trace_does_not_reach_is_named():
    graph = trace_channel_graph(AuxNet(), torch.randn(1, 3, 8, 8), forward_tensors)
    assert graph.skipped['aux'] == 'not reached by the trace'


def test_a_model_of_fixed_input_size_is_traced_uncropped(monkeypatch):
    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.fc = nn.Linear(4 * 64, 2)

        def forward(self, inputs, mode):
            return self.fc(F.relu(self.conv(inputs)).flatten(1))

    monkeypatch.setattr(openmmlab, '_MAX_SIDE', 4)
    graph, inputs = trace_at_any_size(Chain(), torch.randn(1, 3, 8, 8))
    assert list(graph.groups) == ['conv'] and inputs.shape[-1] == 8
    graph, inputs = trace_at_any_size(ToyNet(), torch.randn(1, 3, 8, 8))
    assert inputs.shape[-1] == 4
