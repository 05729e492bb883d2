"""Activations over a data set, by the layers that read them."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from draws import generator
from nets import build, observe
from ranks import run_in_threads
from torch import nn

from mmpsbn.functional.activations import ActivationStatistics, activation_statistics

NETS = ['chain', 'residual', 'concat', 'fpn', 'mobile', 'shuffle', 'psbn_residual']


def same(x, y):
    return all(torch.equal(vars(x)[field], vars(y)[field]) for field in vars(x))


def batches_of(*sizes):
    return [torch.randn(n, 3, 8, 8, generator=generator(n), dtype=torch.float64) for n in sizes]


def stored_inputs(model, batches):
    """Every input of every conv and linear layer, kept: what must not be done."""
    kept = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            module.register_forward_pre_hook(
                lambda module, args, name=name: kept.setdefault(name, []).append(
                    args[0].clone().movedim(-3 if module.weight.dim() == 4 else -1, 1)
                )
            )
    with torch.no_grad():
        for batch in batches:
            model.eval()(batch)
    return {name: torch.cat(inputs) for name, inputs in kept.items()}


# the levels of a pyramid have different sizes
@pytest.mark.parametrize('name', [name for name in NETS if name != 'fpn'])
def test_each_layer_has_the_statistics_of_all_that_it_read(name):
    model, _ = build(name)
    batches = batches_of(3, 1, 2)
    observed = observe(model, batches)
    assert all(module.training and not module._forward_pre_hooks for module in model.modules())
    inputs = stored_inputs(model, batches)
    assert set(observed) == set(inputs)
    for layer, x in inputs.items():
        assert same(observed[layer], activation_statistics(x, channel_dim=1)), layer


def test_ranks_with_data_of_their_own_see_that_of_all():
    model, _ = build('chain')
    batch = torch.cat(batches_of(6))
    parts = [[batch[:2]], [batch[2:]], []]  # a rank without data sees that of the others too

    def of_rank(rank, all_reduce):
        def counted(tensor, op):
            calls.append(op)
            return all_reduce(tensor, op)

        calls = []
        return observe(copy.deepcopy(model), parts[rank], all_reduce=counted), calls

    whole = observe(model, [batch])
    for seen, calls in run_in_threads(of_rank, len(parts)):
        assert calls == ['max', 'max', 'sum']  # whether one failed, peaks, counts
        for name, of_all in whole.items():  # a layer rounds by the number of samples
            torch.testing.assert_close(seen[name].peak, of_all.peak, rtol=1e-14, atol=0)
            assert same(replace(seen[name], peak=of_all.peak), of_all)


def test_nothing_to_observe_is_an_error():
    model, batch = build('chain')
    with pytest.raises(ValueError, match='batches is empty, or reaches none of'):
        observe(model, [])
    with pytest.raises(ValueError, match='no activation was observed'):
        observe(model, [batch[:0]])
    with pytest.raises(ValueError, match='BatchNorm2d has no convolution or linear layer'):
        observe(nn.BatchNorm2d(3), [batch])
    with pytest.raises(RuntimeError):
        observe(model, [batch[:, :2]])
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_layer_that_no_batch_reaches_is_unknown_not_dead():
    class Spare(nn.Sequential):
        def forward(self, x):
            return self[0](x)

    observed = observe(Spare(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)), [torch.randn(2, 3, 4, 4)])
    assert same(observed['1'], ActivationStatistics.empty(4))
    assert not observed['1'].inactive_mask(eps=1.0).any()


def test_nan_in_the_data_shows_in_every_layer_and_kills_none():
    model, batch = build('residual')
    batch[0, 0, 0, 0] = math.nan
    for statistics in observe(model, [batch]).values():
        assert statistics.peak.isinf().any() and not statistics.inactive_mask(eps=1e9).all()
