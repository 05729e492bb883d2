"""A model in wrappers and runners of other kinds: pruned, or refused before the first step."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.dist import get_rank
from mmengine.model import BaseTTAModel, MMDistributedDataParallel
from mmengine.optim import AmpOptimWrapper
from mmengine.runner import FlexibleRunner
from ranks import FSDP_ON_CPU, ON_RANKS, run_on_ranks
from runs import EMA, demp, inner_widths, scalars
from torch import nn
from toy import ToyData, ToyNet, kill_channels, toy_runner

from mmpsbn.engine import FreezeHook, RoundsHook, SnapshotEnsembleHook
from mmpsbn.engine.runner_parts import (
    averaged_models_of,
    bare_model,
    check_replaceable,
    whole_weights,
)
from mmpsbn.engine.sparsity.reading import ALL_MEASURES
from mmpsbn.engine.wrapper import check_wrapper

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


def flexible_runner(folder, hooks, epochs=2, model=None, **kwargs):
    return FlexibleRunner(
        model or dying_net(),
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
    check_replaceable(model, who='DemPHook')
    model.stem = MMDistributedDataParallel.__new__(MMDistributedDataParallel)
    torch.nn.Module.__init__(model.stem)
    said = ' needs a plain or DDP model, got ToyNet, which wraps stem'
    with pytest.raises(TypeError, match=f'SparseWeightsHook{said}'):
        check_replaceable(model, who='SparseWeightsHook')
    runner = SimpleNamespace(model=model, hooks=[])
    with pytest.raises(TypeError, match=f'FreezeHook{said}'):
        FreezeHook(train=['norm']).before_run(runner)
    for hook in (RoundsHook(), SnapshotEnsembleHook()):
        with pytest.raises(TypeError, match=f'{type(hook).__name__}{said}'):
            hook.before_train(runner)


def test_a_fused_optimizer_under_amp_and_an_old_compiler_are_refused(monkeypatch):
    wrapper = AmpOptimWrapper.__new__(AmpOptimWrapper)
    wrapper.optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1)
    runner = SimpleNamespace(model=nn.Linear(1, 1), cfg={}, optim_wrapper=wrapper)
    check_wrapper(runner, hook='DemPHook')
    wrapper.optimizer.param_groups[0]['fused'] = True
    with pytest.raises(TypeError, match='use fused=False'):
        check_wrapper(runner, hook='DemPHook')
    wrapper.optimizer.param_groups[0]['fused'] = False
    runner.cfg['compile'] = True
    monkeypatch.setattr('mmpsbn.engine.wrapper.TORCH_VERSION', '2.2.0')
    check_wrapper(runner, hook='DemPHook')
    monkeypatch.setattr('mmpsbn.engine.wrapper.TORCH_VERSION', '2.1.2+cu121')
    with pytest.raises(TypeError, match='train without compile'):
        check_wrapper(runner, hook='DemPHook')


# --- two ranks, in one pair of processes: to start them is what takes long ---------------------


def augmented(folder):
    runner = toy_runner(folder, [LOADS], model=MeanOfViews(ToyNet()), **ON_RANKS)
    runner.load_checkpoint(f'{folder}/epoch_1.pth')
    kinds = [type(model).__name__ for model in (runner.model, runner.model.module)]
    return kinds, inner_widths(runner.model.module.module)


ON_CPU = dict(type='MMDistributedDataParallel', device_ids=None)


def flexible(folder):
    ranks = dict(strategy=dict(type='DDPStrategy', model_wrapper=ON_CPU), launcher='pytorch')
    runner = flexible_runner(f'{folder}/flexible', [DEMP, WATCHES], **ranks)
    runner.train()
    ranks |= dict(epochs=3, resume=True)
    resumed = flexible_runner(f'{folder}/flexible', [DEMP, WATCHES], **ranks)
    resumed.train()
    wrapped = isinstance(resumed.model, MMDistributedDataParallel)
    wrapped &= all(r.strategy.model is r.model for r in (runner, resumed))
    return wrapped, inner_widths(resumed.model.module), resumed.model.state_dict()


def every_other_hook(folder):
    """Under DDPStrategy: what RoundsHook and SnapshotEnsembleHook, FreezeHook and AddAlphaHook come
    to."""
    ranks = dict(strategy=dict(type='DDPStrategy', model_wrapper=ON_CPU), launcher='pytorch')
    restarts = dict(type='CosineRestartLR', periods=[1, 1], restart_weights=[1, 1], eta_min=0)
    rounds = [dict(type='RoundsHook', shuffle=True), dict(type='FreezeHook', train=['norm'])]
    ranks['param_scheduler'] = [restarts]
    model = ToyNet(norm_cfg=dict(type='psBN'))
    runner = flexible_runner(f'{folder}/rounds', [*rounds, WATCHES], model=model, **ranks)
    runner.train()
    stem, bias = runner.model.module.stem.weight, runner.model.module.norm.bias
    return dict(
        rounds=len(json.loads(Path(f'{folder}/rounds/rounds.json').read_text())),
        trained=(stem.requires_grad, bias.requires_grad),
        weights=[p.detach() for p in runner.model.parameters()],
    )


def sharded(folder):
    """What SparsityHook reads of psBN under FSDP and under DDP, the weights, and what DemPHook
    says to FSDP."""
    wrappers = dict(
        DDPStrategy=ON_CPU,
        FSDPStrategy=dict(type='MMFullyShardedDataParallel', device_id=torch.device('cpu')),
    )
    found = {}
    for kind, wrapper in wrappers.items():
        ranks = dict(strategy=dict(type=kind, model_wrapper=wrapper), launcher='pytorch')
        torch.manual_seed(0)
        model = ToyNet(norm_cfg=dict(type='psBN'))
        kill_channels(model.blocks[0].bn1, [1, 3])
        hooks = [dict(WATCHES, measures=ALL_MEASURES)]
        never = dict(checkpoint=dict(type='CheckpointHook', interval=99))
        how = dict(model=model, default_hooks=never, randomness=dict(seed=0), **ranks)
        runner = flexible_runner(f'{folder}/{kind}', hooks, **how)
        runner.train()
        with whole_weights(runner):
            weights = [p.detach().clone() for p in bare_model(runner).parameters()]
        read = scalars(runner) if get_rank() == 0 else []
        found[kind] = weights, [{k: v for k, v in r.items() if 'sparsity' in k} for r in read]
    with pytest.raises(TypeError) as refusal:
        flexible_runner(f'{folder}/refused', [DEMP], **how | dict(model=dying_net())).train()
    return found, str(refusal.value)


def on_ranks(folder):
    run = augmented, flexible, every_other_hook, *((sharded,) if FSDP_ON_CPU else ())
    return tuple(of(folder) for of in run)


@pytest.fixture(scope='module')
def two_ranks(tmp_path_factory):
    """What each of these came to on rank 0 and on rank 1."""
    folder = tmp_path_factory.mktemp('ranks')
    toy_runner(folder, [DEMP], model=dying_net(), epochs=1).train()
    return list(zip(*run_on_ranks(on_ranks, 2, folder, str(folder))))


def test_on_ranks_they_load_and_prune_too(two_ranks):
    for loaded in two_ranks[0]:
        assert loaded == (['MMDistributedDataParallel', 'MeanOfViews'], [10, 12])
    for wrapped, widths, state in two_ranks[1]:
        assert wrapped and widths == [10, 12]
        for name, value in state.items():
            if 'running' not in name:  # of each rank's own batches
                assert torch.equal(value, two_ranks[1][0][2][name]), name


def test_every_other_hook_trains_under_ddp_strategy(two_ranks):
    first, second = two_ranks[2]
    assert first['rounds'] == 2 and first['trained'] == (False, True)
    for ours, theirs in zip(first['weights'], second['weights']):
        assert torch.equal(ours, theirs)


@pytest.mark.skipif(not FSDP_ON_CPU, reason='FSDP on the CPU needs torch 2.2')
def test_psbn_and_the_watch_under_fsdp_are_those_under_ddp_and_demp_is_refused(two_ranks):
    (found, refusal), (others, refused) = two_ranks[3]
    (ddp, read), (fsdp, read_sharded) = found['DDPStrategy'], found['FSDPStrategy']
    torch.testing.assert_close(fsdp, ddp)
    torch.testing.assert_close(others['FSDPStrategy'][0], fsdp)
    assert read and all(record['sparsity/collapsed'] >= 2 for record in read)
    torch.testing.assert_close(read_sharded, read)
    for said in (refusal, refused):
        assert 'DemPHook needs a plain or DDP model, got MMFullyShardedDataParallel, which' in said
