"""DemPHook on gloo ranks with different data."""

import copy

import pytest
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import MODELS
from ranks import ON_RANKS, run_on_ranks
from runs import EMA, average_of, demp, inner_widths, killing, pruner_of, resume_from, train
from snapshots import assert_same
from torch import nn
from toy import ToyNet, kill_channels

from mmpsbn.engine.runner_parts import bare_model


@MODELS.register_module(force=True)
class IdleLayerNet(ToyNet):
    """Has a layer that never runs, for find_unused_parameters."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.idle = nn.Linear(3, 3).double()


def train_in_order(work_dir, norm, **kwargs):
    """Model, averaged model and momenta at the end, by name."""

    def prepare(runner):
        runner.train_dataloader.sampler.shuffle = False
        killing([1, 3, 5])(runner)

    model = dict(type='IdleLayerNet', norm_cfg=dict(type=norm), dtype=torch.float64)
    hooks = [demp(penalty=0.05, noise=3e-3), EMA]
    runner, _ = train(work_dir, hooks, prepare, model=model, dtype=torch.float64, **kwargs)
    model, momenta = bare_model(runner), runner.optim_wrapper.optimizer.state
    return dict(
        model.state_dict(),
        **{f'ema {name}': value for name, value in average_of(runner).state_dict().items()},
        **{
            f'momentum {name}': momenta[p]['momentum_buffer']
            for name, p in model.named_parameters()
            if p in momenta
        },
    )


def train_rank(work_dir, batch_size):
    on_ranks = copy.deepcopy(ON_RANKS)
    on_ranks['cfg']['model_wrapper_cfg']['find_unused_parameters'] = True
    on_ranks['batch_size'] = batch_size
    return train_in_order(f'{work_dir}/ranks', 'psSyncBN', **on_ranks)


def test_ranks_equal_one_process_with_the_joined_batch(tmp_path):
    first, second = run_on_ranks(train_rank, 2, tmp_path, str(tmp_path), 4)
    alone = train_in_order(tmp_path / 'alone', 'psBN', batch_size=8)
    for prefix in ('', 'ema ', 'momentum '):
        assert first[f'{prefix}blocks.0.conv1.weight'].shape[0] == 9
    torch.testing.assert_close(first, alone, rtol=1e-8, atol=1e-10)
    assert_same(second, first)


# --- two ranks, each scenario in turn: to start the processes is what takes long --------------


def revive_on_rank_1(until):
    """Channels 1 and 3 are dead, but 3 is alive on rank 1 up to an iteration."""

    def prepare(runner):
        def revive(module, args, output):
            if module.training and runner.iter < until:
                output[:, 3] = 1.0

        killing([1, 3])(runner)
        if get_rank() == 1:
            bare_model(runner).blocks[0].bn1.register_forward_hook(revive)

    return prepare


def alive_on_one_rank(folder):
    runner, _ = train(folder, [demp()], revive_on_rank_1(99), epochs=2, **ON_RANKS)
    return inner_widths(bare_model(runner))


def alive_on_one_rank_before_a_checkpoint(folder):
    """What two runs come to, of which one was never stopped."""
    weights = []
    for name, more in (('whole', {}), ('resumed', resume_from(f'{folder}/whole/epoch_1.pth'))):
        hooks, more = [demp(num_samples=64), EMA], dict(more, epochs=2)
        runner, _ = train(f'{folder}/{name}', hooks, revive_on_rank_1(4), **ON_RANKS, **more)
        weights.append(dict(bare_model(runner).named_parameters()))
    return weights


@MODELS.register_module(force=True)
class RankRouted(ToyNet):
    """A branch that runs on pictures of rank 1 alone in training, and one that never does."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1))
            for _ in range(2)
        )
        for branch in self.branches:
            kill_channels(branch[1], [0, 1])

    def forward(self, inputs, labels=None, mode='tensor'):
        empty, given = inputs[:0], inputs[: len(inputs) if mode == 'tensor' or get_rank() else 0]
        x = (
            self.branches[0](given).sum((0, 2, 3)),
            self.branches[1](inputs if mode == 'tensor' else empty).sum((0, 2, 3)),
        )
        out = super().forward(inputs, labels, mode)
        return (out, *x) if mode == 'tensor' else dict(out, extra_loss=0 * (x[0] + x[1]).sum())


def branches_by_rank(folder):
    """Pictures are smaller on rank 1."""

    def crop(runner):
        dataset = runner.train_dataloader.dataset
        dataset.inputs = dataset.inputs[..., : 8 - get_rank(), :]

    model = dict(type='RankRouted')
    runner, _ = train(folder, [demp(interval=4)], crop, epochs=1, model=model, **ON_RANKS)
    widths = [branch[0].out_channels for branch in bare_model(runner).branches]
    return widths, pruner_of(runner).state()['positions']


def batches_that_shrink_on_one_rank(folder):
    """From the middle on rank 1 has one picture an iteration and rank 0 four: by its own count
    it would open its window long before."""

    class Shrink(Hook):
        priority = 'VERY_HIGH'

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter >= 3 and get_rank() == 1:
                data_batch.update({key: x[:1] for key, x in data_batch.items()})

    hooks = [demp(interval=8), Shrink()]
    runner, _ = train(folder, hooks, killing([1]), epochs=2, **ON_RANKS)
    return inner_widths(bare_model(runner))


class SizeByRank(nn.Module):
    """Images are smaller on later ranks."""

    def forward(self, data, training=False):
        side = 8 - 2 * get_rank()
        return dict(data, inputs=data['inputs'][..., :side, :side])


def budget_over_other_sizes(folder):
    def prepare(runner):
        bare_model(runner).data_preprocessor = SizeByRank()

    hook = dict(type='DemPHook', budget=dict(flops=0.7))
    runner, _ = train(folder, [hook], prepare, **(ON_RANKS | dict(epochs=15)))
    pruner = pruner_of(runner)
    return (
        pruner.structure.plan.to_dict(),
        pruner.budget.left,
        dict(bare_model(runner).named_parameters()),
    )


class DarkOnRank0(nn.Module):
    """What rank 0 sees is 0, and with frozen norms so is all that its layers give."""

    def forward(self, data, training=False):
        return dict(data, inputs=data['inputs'] * get_rank())


def budget_of_frozen_norms(folder):
    def darken(runner):
        bare_model(runner).data_preprocessor = DarkOnRank0()

    hook = dict(type='DemPHook', budget=dict(flops=0.7))
    model = dict(type='ToyNet', norm_cfg=dict(type='BN', requires_grad=False))
    found = []
    # the cuts come after 12, 24 and 36 iterations
    for name, more in (('whole', {}), ('resumed', resume_from(f'{folder}/whole/epoch_4.pth'))):
        how = ON_RANKS | dict(epochs=15, model=model) | more
        runner, _ = train(f'{folder}/{name}', [hook], darken, **how)
        pruner = pruner_of(runner)
        weights = dict(bare_model(runner).named_parameters())
        found.append((pruner.structure.plan.to_dict(), pruner.budget.met, weights))
    return found


def snap_at_the_start(folder):
    hook = dict(type='DemPHook', budget=dict(flops=0.5, score='snap', timing='start'))
    runner, _ = train(folder, [hook], epochs=1, **ON_RANKS)
    pruner = pruner_of(runner)
    return (
        pruner.structure.plan.to_dict(),
        pruner.budget.met,
        dict(bare_model(runner).named_parameters()),
    )


SCENARIOS = (
    alive_on_one_rank,
    alive_on_one_rank_before_a_checkpoint,
    branches_by_rank,
    batches_that_shrink_on_one_rank,
    budget_over_other_sizes,
    budget_of_frozen_norms,
    snap_at_the_start,
)


def all_scenarios(folder):
    return {scenario: scenario(f'{folder}/{scenario.__name__}') for scenario in SCENARIOS}


@pytest.fixture(scope='module')
def two_ranks(tmp_path_factory):
    """What each scenario came to on rank 0 and on rank 1."""
    folder = tmp_path_factory.mktemp('ranks')
    first, second = run_on_ranks(all_scenarios, 2, folder, str(folder))
    return {scenario: (first[scenario], second[scenario]) for scenario in SCENARIOS}


def test_a_channel_goes_only_where_it_is_dead_on_every_rank(two_ranks):
    assert two_ranks[alive_on_one_rank] == ([11, 12], [11, 12])


def test_what_one_rank_saw_before_a_checkpoint_is_known_after_a_resume(two_ranks):
    (whole, *states), others = two_ranks[alive_on_one_rank_before_a_checkpoint]
    assert whole['blocks.0.conv1.weight'].shape[0] == 11
    for state in (*states, *others):
        assert_same(state, whole)


def test_a_rank_that_saw_nothing_of_a_branch_does_not_speak_for_it(two_ranks):
    (widths, positions), theirs = two_ranks[branches_by_rank]
    assert widths == [4, 6] and positions['stem.weight'] == 64
    assert theirs == (widths, positions)  # MACs are counted on the pictures of one rank


def test_ranks_with_batches_of_other_sizes_open_a_window_together(two_ranks):
    assert two_ranks[batches_that_shrink_on_one_rank] == ([11, 12], [11, 12])


def test_ranks_with_images_of_other_sizes_choose_the_same_channels(two_ranks):
    (plan, left, weights), theirs = two_ranks[budget_over_other_sizes]
    assert abs(left / 0.7 - 1) <= 0.02
    assert theirs[:2] == (plan, left)
    assert_same(theirs[2], weights)


def test_what_one_rank_alone_sees_of_frozen_norms_counts(two_ranks):
    ours, theirs = two_ranks[budget_of_frozen_norms]
    plan, met, weights = ours[0]
    assert met and plan
    for other in (ours[1], *theirs):  # resumed between two cuts, and on the other rank
        assert other[:2] == (plan, True)
        assert_same(other[2], weights)


def test_ranks_join_what_their_pictures_say_of_the_gates(two_ranks):
    (plan, met, weights), theirs = two_ranks[snap_at_the_start]
    assert met and theirs[:2] == (plan, True)
    assert_same(theirs[2], weights)
