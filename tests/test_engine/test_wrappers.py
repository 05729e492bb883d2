"""A model in wrappers and runners of other kinds: pruned, or refused before the first step."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import BaseTTAModel, MMDistributedDataParallel
from mmengine.optim import AmpOptimWrapper
from mmengine.runner import FlexibleRunner
from ranks import ON_RANKS, run_on_ranks
from runs import EMA, demp, inner_widths
from torch import nn
from toy import ToyData, ToyNet, kill_channels, toy_runner

from mmpsbn.engine.demp.wrapper import check_wrapper
from mmpsbn.engine.runner_parts import averaged_models_of, check_replaceable, unwrapped_model

DEMP = demp(interval=4, num_samples=8)
LOADS = dict(type='PrunedCheckpointHook')
WATCHES = dict(type='SparsityHook', interval=2)
_RUNS = itertools.count()


def dying_net():
    torch.manual_seed(0)
    model = ToyNet()
    kill_channels(model.blocks[0].bn1, [1, 3])
    return model


class MeanOfViews(BaseTTAModel):
    def merge_preds(self, data_samples_list):
        return data_samples_list


@pytest.mark.parametrize('hooks', [[LOADS], [DEMP], [LOADS, EMA]])
def test_a_pruned_checkpoint_loads_under_test_time_augmentation(tmp_path, hooks):
    toy_runner(tmp_path, [DEMP], model=dying_net(), epochs=1).train()
    runner = toy_runner(tmp_path, hooks, model=MeanOfViews(ToyNet()))
    runner.call_hook('before_run')
    runner.load_checkpoint(str(tmp_path / 'epoch_1.pth'))
    for model in (runner.model.module, *averaged_models_of(runner)):
        assert inner_widths(model) == [10, 12]


def flexible_runner(folder, hooks, epochs=2, **kwargs):
    return FlexibleRunner(
        dying_net(),
        work_dir=str(folder),
        train_dataloader=dict(
            batch_size=8,
            dataset=ToyData(),
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
        custom_hooks=hooks,
        log_level='WARNING',
        experiment_name=f'flexible{next(_RUNS)}',
        **kwargs,
    )


def test_a_flexible_runner_prunes_and_resumes(tmp_path):
    runner = flexible_runner(tmp_path, [DEMP, WATCHES])
    runner.train()
    assert inner_widths(runner.model) == [10, 12]
    resumed = flexible_runner(tmp_path, [DEMP, WATCHES], epochs=3, resume=True)
    resumed.train()
    assert inner_widths(resumed.model) == [10, 12] and resumed.iter == 12
    assert resumed.optim_wrapper.optimizer.state[resumed.model.blocks[0].conv1.weight]


def test_averages_that_a_flexible_runner_cannot_load_are_refused(tmp_path):
    flexible_runner(tmp_path, [DEMP, EMA], epochs=1).train()
    with pytest.raises(ValueError, match='^FlexibleRunner loads checkpoints before EMAHook has'):
        flexible_runner(tmp_path, [DEMP, EMA], resume=True).train()


def test_compiled_steps_of_a_flexible_runner_are_refused(tmp_path, monkeypatch):
    # torch 2.1 would switch optimizer step hooks off for the tests to come
    monkeypatch.setattr(torch, 'compile', lambda function, **_: function)
    runner = flexible_runner(tmp_path, [DEMP], compile=True)
    with pytest.raises(TypeError, match="FlexibleRunner's compiled steps"):
        runner.train()


def test_wrappers_within_the_model_are_refused():
    model = ToyNet()
    check_replaceable(model)
    model.stem = MMDistributedDataParallel.__new__(MMDistributedDataParallel)
    torch.nn.Module.__init__(model.stem)
    with pytest.raises(TypeError, match='needs a plain or DDP model, got ToyNet, which wraps stem'):
        check_replaceable(model)
    runner = SimpleNamespace(model=model, hooks=[])
    with pytest.raises(TypeError, match='needs a plain or DDP model'), unwrapped_model(runner):
        pass


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


# --- two ranks, in one pair of processes: to start them is what takes long ---------------------


def augmented(folder):
    runner = toy_runner(folder, [LOADS], model=MeanOfViews(ToyNet()), **ON_RANKS)
    runner.load_checkpoint(f'{folder}/epoch_1.pth')
    kinds = [type(model).__name__ for model in (runner.model, runner.model.module)]
    return kinds, inner_widths(runner.model.module.module)


def flexible(folder):
    wrapper = dict(type='MMDistributedDataParallel', device_ids=None)
    ranks = dict(strategy=dict(type='DDPStrategy', model_wrapper=wrapper), launcher='pytorch')
    runner = flexible_runner(f'{folder}/flexible', [DEMP, WATCHES], **ranks)
    runner.train()
    ranks |= dict(epochs=3, resume=True)
    resumed = flexible_runner(f'{folder}/flexible', [DEMP, WATCHES], **ranks)
    resumed.train()
    wrapped = isinstance(resumed.model, MMDistributedDataParallel)
    wrapped &= all(r.strategy.model is r.model for r in (runner, resumed))
    return wrapped, inner_widths(resumed.model.module), resumed.model.state_dict()


def on_ranks(folder):
    return augmented(folder), flexible(folder)


def test_on_ranks_they_load_and_prune_too(tmp_path):
    toy_runner(tmp_path, [DEMP], model=dying_net(), epochs=1).train()
    first, second = run_on_ranks(on_ranks, 2, tmp_path, str(tmp_path))
    for loaded, (wrapped, widths, state) in (first, second):
        assert loaded == (['MMDistributedDataParallel', 'MeanOfViews'], [10, 12])
        assert wrapped and widths == [10, 12]
        for name, value in state.items():
            if 'running' not in name:  # of each rank's own batches
                assert torch.equal(value, first[1][2][name]), name
