"""DemPHook on two gloo ranks with different data."""

import torch
from mmengine.dist import get_rank
from ranks import run_on_ranks
from toy import kill_channels, toy_runner

DEMP = dict(
    type='DemPHook',
    penalty=dict(peak=0.05),
    noise=dict(peak_var=1e-5),
    prune=dict(interval=6, num_samples=16),
)


ON_RANKS = dict(
    launcher='pytorch',
    batch_size=4,
    cfg=dict(
        model_wrapper_cfg=dict(
            type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False
        )
    ),
)


def bare(runner):
    return getattr(runner.model, 'module', runner.model)


def train(work_dir, norm, **kwargs):
    runner = toy_runner(work_dir, [dict(DEMP)], norm=norm, dtype=torch.float64, **kwargs)
    runner.train_dataloader.sampler.shuffle = False
    kill_channels(bare(runner).blocks[0].bn1, [1, 3, 5])
    runner.train()
    return bare(runner).state_dict()


def train_rank(work_dir):
    return train(f'{work_dir}/ranks', 'psSyncBN', **ON_RANKS)


def test_two_ranks_equal_one_process_with_the_joined_batch(tmp_path):
    first, second = run_on_ranks(train_rank, 2, tmp_path, str(tmp_path))
    alone = train(tmp_path / 'alone', 'psBN', batch_size=8)
    assert first['blocks.0.conv1.weight'].shape[0] == 9
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        torch.testing.assert_close(value, alone[name], rtol=1e-8, atol=1e-10, msg=name)


def train_dead_on_one_rank(work_dir):
    quiet = dict(DEMP, penalty=dict(peak=0.0), noise=dict(peak_var=0.0))
    runner = toy_runner(f'{work_dir}/r', [quiet], epochs=2, **ON_RANKS)
    layer = bare(runner).blocks[0].bn1
    kill_channels(layer, [1, 3])

    def revive(module, args, output):
        if module.training:
            output[:, 3] = 1.0

    if get_rank() == 1:
        layer.register_forward_hook(revive)
    runner.train()
    return bare(runner).blocks[0].conv1.weight.shape[0]


def test_a_channel_goes_only_where_it_is_dead_on_every_rank(tmp_path):
    assert run_on_ranks(train_dead_on_one_rank, 2, tmp_path, str(tmp_path)) == [11, 11]
