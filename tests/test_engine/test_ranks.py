"""DemPHook on gloo ranks with different data."""

import copy

import pytest
import torch
from mmengine.dist import get_rank
from mmengine.registry import MODELS
from ranks import ON_RANKS, run_on_ranks
from torch import nn
from toy import ToyNet, kill_channels, toy_runner

from mmpsbn.engine.runner_parts import averaged_models_of, bare_model

DEMP = dict(
    type='DemPHook',
    penalty=dict(peak=0.05),
    noise=dict(peak_std=3e-3),
    prune=dict(interval=6, num_samples=16),
)


@MODELS.register_module(force=True)
class IdleLayerNet(ToyNet):
    """Has a layer that never runs, for find_unused_parameters."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.idle = nn.Linear(3, 3).double()


def train(work_dir, norm, **kwargs):
    """Model, averaged model and momenta at the end, by name."""
    model = dict(type='IdleLayerNet', norm_cfg=dict(type=norm), dtype=torch.float64)
    hooks = [dict(DEMP), dict(type='EMAHook')]
    runner = toy_runner(work_dir, hooks, model=model, dtype=torch.float64, **kwargs)
    runner.train_dataloader.sampler.shuffle = False
    kill_channels(bare_model(runner).blocks[0].bn1, [1, 3, 5])
    runner.train()
    model, optimizer = bare_model(runner), runner.optim_wrapper.optimizer
    average = averaged_models_of(runner)[0]
    return dict(
        model.state_dict(),
        **{f'ema {name}': value for name, value in average.state_dict().items()},
        **{
            f'momentum {name}': optimizer.state[p]['momentum_buffer']
            for name, p in model.named_parameters()
            if p in optimizer.state
        },
    )


def train_rank(work_dir, batch_size):
    on_ranks = copy.deepcopy(ON_RANKS)
    on_ranks['cfg']['model_wrapper_cfg']['find_unused_parameters'] = True
    return train(f'{work_dir}/ranks', 'psSyncBN', **dict(on_ranks, batch_size=batch_size))


@pytest.mark.parametrize('ranks', [2, 4])
def test_ranks_equal_one_process_with_the_joined_batch(tmp_path, ranks):
    first, *others = run_on_ranks(train_rank, ranks, tmp_path, str(tmp_path), 8 // ranks)
    alone = train(tmp_path / 'alone', 'psBN', batch_size=8)
    assert first.keys() == alone.keys()
    for prefix in ('', 'ema ', 'momentum '):
        assert first[f'{prefix}blocks.0.conv1.weight'].shape[0] == 9
    for name, value in first.items():
        for other in others:
            assert torch.equal(value, other[name]), name
        torch.testing.assert_close(value, alone[name], rtol=1e-8, atol=1e-10, msg=name)


def train_dead_on_one_rank(work_dir):
    quiet = dict(DEMP, penalty=dict(peak=0.0), noise=dict(peak_std=0.0))
    runner = toy_runner(f'{work_dir}/r', [quiet], epochs=2, **ON_RANKS)
    layer = bare_model(runner).blocks[0].bn1
    kill_channels(layer, [1, 3])

    def revive(module, args, output):
        if module.training:
            output[:, 3] = 1.0

    if get_rank() == 1:
        layer.register_forward_hook(revive)
    runner.train()
    return bare_model(runner).blocks[0].conv1.weight.shape[0]


def test_a_channel_goes_only_where_it_is_dead_on_every_rank(tmp_path):
    assert run_on_ranks(train_dead_on_one_rank, 2, tmp_path, str(tmp_path)) == [11, 11]


@MODELS.register_module(force=True)
class SizeByRank(nn.Module):
    """Images are smaller on later ranks."""

    def forward(self, data, training=False):
        side = 8 - 2 * get_rank()
        return dict(data, inputs=data['inputs'][..., :side, :side])


def train_to_a_budget(work_dir):
    hook = dict(DEMP, budget=dict(flops=0.7))
    runner = toy_runner(f'{work_dir}/r', [hook], epochs=2, **ON_RANKS)
    kill_channels(bare_model(runner).blocks[0].bn1, [1, 3, 5])
    bare_model(runner).data_preprocessor = MODELS.build(dict(type='SizeByRank'))
    runner.train()
    pruner = next(h.pruner for h in runner.hooks if hasattr(h, 'pruner'))
    return pruner.progress.left, pruner.budget.left, pruner.budget.scale


def test_ranks_with_images_of_other_sizes_steer_to_one_budget(tmp_path):
    ours, theirs = run_on_ranks(train_to_a_budget, 2, tmp_path, str(tmp_path))
    assert ours == theirs
