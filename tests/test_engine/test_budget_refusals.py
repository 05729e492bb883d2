"""What DemPHook refuses under a budget, in a sentence that names it."""

import re

import pytest
import torch
from budget_runs import WIDE, choosing, run
from mmengine.optim import OptimWrapper, OptimWrapperDict
from runs import demp, resume_from
from toy import ToyNet


def test_a_budget_below_what_can_be_left_is_refused_with_what_stands_in_the_way(tmp_path):
    with pytest.raises(
        ValueError,
        match=r'budget flops=0.01 cannot be met: with every channel gone that can go, '
        r'\d+.\d% of the macs are left \(widths in multiples of 1, at least 12\).* left whole: fc ',
    ):
        run(tmp_path, hook=choosing(flops=0.01, prune=dict(min_channels=12)))


class Shuffle(torch.nn.Module):
    def forward(self, x):
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def test_what_a_shuffle_ties_together_is_named(tmp_path):
    """Two groups of channels, shuffled and grouped again: each goes with each (ShuffleNetV1)."""

    def tie(runner):
        block = runner.model.blocks[0]
        first, last = (torch.nn.Conv2d(8, 8, 1, groups=2) for _ in range(2))
        block.bn1 = torch.nn.Sequential(first, Shuffle(), last)

    model = dict(type='ToyNet', width=8, inner=8)
    match = r'left whole: .*blocks.0.conv1 \(its channels can only go all together\)'
    with pytest.raises(ValueError, match=match):
        run(tmp_path, tie, hook=choosing(flops=0.01), model=model)


def freeze_first_block(runner):
    runner.model.blocks[0].requires_grad_(False)


def test_a_budget_that_takes_channels_without_gradients_is_refused_by_name(tmp_path):
    """Or the other layers would go down to one channel for it."""
    match = r'cannot be met: .* left whole: .*stem, blocks.0.conv1 \(frozen'
    with pytest.raises(ValueError, match=match):
        run(tmp_path, freeze_first_block, hook=choosing(flops=0.3), iters=50, model=WIDE)


def test_two_optimizers_are_refused(tmp_path):
    torch.manual_seed(0)
    net = ToyNet(width=32, inner=48)
    parts = dict(stem=net.stem.parameters(), rest=net.blocks.parameters())
    wrappers = {n: OptimWrapper(torch.optim.SGD(p, lr=0.1)) for n, p in parts.items()}
    with pytest.raises(TypeError, match='steps of one optimizer, and this run has 2'):
        run(tmp_path, iters=50, model=net, optim_wrapper=OptimWrapperDict(**wrappers))


@pytest.mark.parametrize(
    'settings, named',
    [
        (dict(penalty=dict(peak=1e-2)), "['penalty']"),
        (dict(noise={}, schedule={}), "['noise', 'schedule']"),
        (dict(prune=dict(interval=5, tolerance=1e-3, num_samples=8)), "['prune.interval', 'prune"),
        (dict(prune=dict(allow_live=True)), "['prune.allow_live']"),
    ],
)
def test_what_a_budget_makes_meaningless_is_refused_by_name(tmp_path, settings, named):
    with pytest.raises(ValueError, match=re.escape(f'by what the loss misses, and {named}')):
        run(tmp_path, hook=choosing() | settings)


@pytest.mark.parametrize(
    'first, second, said',
    [
        (choosing(), dict(type='DemPHook'), 'began with a budget in flops, .* has no budget now'),
        (demp(), choosing(), 'began with no budget, and DemPHook has a budget in flops now'),
        (choosing(), choosing(params=0.5), 'with a budget in flops, .* has a budget in params now'),
    ],
)
def test_a_run_is_resumed_with_the_budget_it_began_with(tmp_path, first, second, said):
    run(tmp_path / 'first', iters=50, hook=first)
    with pytest.raises(ValueError, match=said):
        begun = resume_from(tmp_path / 'first/iter_10.pth')
        run(tmp_path / 'second', iters=50, hook=second, **begun)
