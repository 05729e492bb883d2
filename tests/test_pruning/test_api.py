"""prune_dead_channels: one call, exact where it says so, and clear about bad input."""

import copy
import os

import pytest
import torch
from nets import NETS, assert_same, build, flat, masked_copy, silence, snapshot
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmpsbn.layers import psBN2d
from mmpsbn.pruning import (
    VerificationError,
    prune_channels_by_mask,
    prune_dead_channels,
    trace_channel_graph,
)
from mmpsbn.pruning.cost import count_positions, model_cost
from mmpsbn.pruning.forward import call_with

close = dict(rtol=1e-10, atol=1e-10)
X = torch.randn(2, 3, 8, 8, dtype=torch.float64)


def outputs(model, batch):
    with torch.no_grad():
        return flat(copy.deepcopy(model).eval()(batch))


@pytest.mark.parametrize('name', NETS)
def test_what_is_dead_goes_and_the_costs_are_those_of_the_models(name):
    model, batch = build(name)
    graph = trace_channel_graph(model, batch, call_with)
    silence(model, graph.groups)
    dense, before = copy.deepcopy(model), outputs(model, batch)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    result = prune_dead_channels(model, [batch], optimizers=[optimizer], tolerance=1e-10)
    assert result.plan and sum(result.channels_removed.values()) > 2
    for ours, theirs in zip(outputs(model, batch), before):
        torch.testing.assert_close(ours, theirs, **close)
    assert result.max_abs_error <= 1e-10 and result.relative_error <= 1e-10
    for costs, of in (('before', dense), ('after', model)):
        cost = model_cost(of, count_positions(of, batch, call_with))
        assert getattr(result, f'macs_{costs}') == cost.macs
        assert getattr(result, f'params_{costs}') == sum(p.numel() for p in of.parameters())
    assert result.macs_after < result.macs_before and result.skipped == graph.skipped


def test_a_channel_must_be_dead_on_every_batch():
    model = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(2, 1, 1))
    model[0].weight.data = torch.eye(2)[..., None, None]
    first, second = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]])
    batches = [x.view(1, 2, 1, 1) for x in (first, second)]
    assert prune_dead_channels(copy.deepcopy(model), iter(batches)).channels_removed == {}
    assert prune_dead_channels(model, iter(batches[:1])).channels_removed == {'0': 1}


@pytest.mark.parametrize('batch_type', [tuple, dict, 'forward_fn'])
def test_batches_of_any_form(batch_type):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x, y):
            return self.b(torch.relu(self.a(x + y)))

    model, x = Two(), torch.randn(5, 3)
    model.a.weight.data[1] = 0
    model.a.bias.data[1] = -1
    batch = {tuple: (x, x), dict: dict(x=x, y=x), 'forward_fn': x}[batch_type]
    forward_fn = (lambda m, b: m(b, b)) if batch_type == 'forward_fn' else call_with
    assert prune_dead_channels(model, [batch], forward_fn=forward_fn).channels_removed == {'a': 1}


# --- collapsed: constants are folded -------------------------------------------------------


class Collapsing(nn.Module):
    """A psBN layer whose channels 1 and 3 emit alpha, read by what ``read`` builds."""

    def __init__(self, *read, act=nn.ReLU):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 5, 3), psBN2d(5, alpha=0.3), act()
        self.read = nn.Sequential(*read)
        with torch.no_grad():
            self.norm.weight[[1, 3]] = 0
            self.norm.running_mean.normal_()
            for module in self.read:
                if isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
                    for tensor in (module.running_mean, module.weight, module.bias):
                        tensor.normal_()

    def forward(self, x):
        return self.read(self.act(self.norm(self.conv(x))))


READERS = dict(
    bias=lambda: [nn.Conv2d(5, 4, 3)],
    mean=lambda: [nn.Conv2d(5, 4, 3, bias=False), nn.BatchNorm2d(4)],
    padded_1x1=lambda: [nn.Conv2d(5, 4, 1)],
    linear=lambda: [nn.Flatten(), nn.Linear(5 * 36, 4)],
    instance_norm=lambda: [
        nn.Conv2d(5, 4, 3, bias=False),
        nn.InstanceNorm2d(4, affine=True),
    ],
)


def collapsing(*read, **kwargs):
    torch.manual_seed(0)
    return Collapsing(*read, **kwargs).double(), torch.randn(3, 3, 8, 8, dtype=torch.float64)


@pytest.mark.parametrize('act', [nn.ReLU, nn.SiLU, nn.Sigmoid, nn.LeakyReLU])
@pytest.mark.parametrize('reader', READERS)
def test_constants_are_folded_exactly_whatever_the_activation(reader, act):
    model, batch = collapsing(*READERS[reader](), act=act)
    dense, unseen = copy.deepcopy(model), torch.randn_like(batch)
    assert prune_dead_channels(copy.deepcopy(model), [batch]).channels_removed == {}
    result = prune_dead_channels(model, [batch], 'collapsed', tolerance=1e-12)
    assert result.channels_removed == {'conv': 2} and model.norm.num_features == 3
    torch.testing.assert_close(outputs(model, unseen), outputs(dense, unseen), **close)
    if reader == 'mean':  # in training mode the norm takes away what was folded into it
        torch.testing.assert_close(model.train()(unseen), dense.train()(unseen), **close)


def test_behind_zero_padding_folding_is_opt_in_and_its_error_is_told():
    model, batch = collapsing(nn.Conv2d(5, 4, 3, padding=1))
    assert prune_dead_channels(copy.deepcopy(model), [batch], 'collapsed').channels_removed == {}
    before = snapshot(model)
    result = prune_dead_channels(model, [batch], 'collapsed', fold_padding=True)
    assert result.channels_removed == {} and 'changes the outputs by' in result.skipped['conv']
    assert_same(snapshot(model), before)  # the bias too
    dense = outputs(model, batch)
    result = prune_dead_channels(model, [batch], 'collapsed', fold_padding=True, tolerance=1.0)
    error = (outputs(model, batch)[0] - dense[0]).abs()
    assert result.max_abs_error == pytest.approx(float(error.max())) and error.max() > 1e-3
    assert error[..., 1:-1, 1:-1].max() < 1e-12  # the border alone


@pytest.mark.parametrize(
    'read',
    [
        [nn.ConvTranspose2d(5, 4, 2)],
        [nn.Conv2d(5, 4, 1, bias=False)],
        [nn.Conv2d(5, 4, 1, bias=False), nn.GroupNorm(2, 4)],
        [nn.Conv2d(5, 4, 1, bias=False), nn.BatchNorm2d(4, track_running_stats=False)],
    ],
)
def test_what_has_no_place_for_the_constant_keeps_it(read):
    model, batch = collapsing(*read)
    assert prune_dead_channels(model, [batch], 'collapsed').channels_removed == {}


def test_gamma_below_the_threshold_counts_as_collapsed_and_the_error_is_measured():
    model, batch = collapsing(nn.Conv2d(5, 4, 1))
    model.norm.weight.data[1] = 5e-4
    assert prune_dead_channels(
        copy.deepcopy(model), [batch], 'collapsed', gamma_threshold=1e-4
    ).channels_removed == {'conv': 1}
    result = prune_dead_channels(model, [batch], 'collapsed', tolerance=1e-2)
    assert result.channels_removed == {'conv': 2} and 1e-6 < result.relative_error < 1e-2


# --- keep masks -----------------------------------------------------------------------------


def test_keep_masks_by_layer():
    model, batch = build('residual')
    stream = torch.tensor([1, 1, 1, 0, 1, 1, 1, 1]).bool()
    inner = torch.tensor([0] + [1] * 11).bool()
    masks = {'blocks.1.conv2': stream, 'blocks.0.conv1': inner}
    groups = trace_channel_graph(model, batch, call_with).groups
    masked = masked_copy(model, groups, {'stem': stream, 'blocks.0.conv1': inner})
    result = prune_channels_by_mask(model, batch, masks, tolerance=1e-10)
    torch.testing.assert_close(outputs(model, batch), outputs(masked, batch), **close)
    assert result.channels_removed == {'stem': 1, 'blocks.0.conv1': 1}
    assert 'blocks.0.conv1.weight' in result.plan.kept and model.stem.out_channels == 7


class FixedReshape(nn.Module):
    """What the code says in numbers does not change with the widths: mmcv's NonLocal2d."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = self.b(torch.relu(self.a(x)))
        return self.c(torch.relu(x).flatten(2).transpose(1, 2).transpose(1, 2).reshape(-1, 6, 8, 8))


def test_a_layer_that_cannot_shrink_is_left_whole_and_the_rest_goes():
    model = FixedReshape().double()
    for layer in (model.a, model.b):
        layer.weight.data[1], layer.bias.data[1] = 0, -1
    result = prune_dead_channels(model, [X])
    assert result.channels_removed == {'a': 1} and model.b.out_channels == 6
    assert 'RuntimeError: shape' in result.skipped['b']
    with pytest.raises(VerificationError, match=r"removing \['b'\] changes the outputs by inf"):
        prune_channels_by_mask(model, X, {'b': torch.arange(6) != 1})


def test_masks_of_one_stream_remove_what_all_of_them_remove():
    model, batch = build('residual')
    masks = {
        'stem': torch.tensor([0, 0, 1, 1, 1, 1, 1, 1]).bool(),
        'blocks.0.conv2': torch.tensor([1, 0, 0, 1, 1, 1, 1, 1]).bool(),
    }
    result = prune_channels_by_mask(model, batch, masks)
    assert result.channels_removed == {'stem': 1}
    assert result.plan.kept['stem.weight'][0] == (0, 2, 3, 4, 5, 6, 7)


@pytest.mark.parametrize(
    'layer, mask, message',
    [
        ('features.0', torch.ones(5).bool(), r'must be a bool tensor of shape \(6,\)'),
        ('features.0', torch.ones(6), 'must be a bool tensor .*float32'),
        ('features.0', [True] * 6, 'must be a bool tensor .*list'),
        ('features.0', torch.zeros(6).bool(), 'all False'),
        ('features.9', torch.ones(6).bool(), 'no such layer; prunable are'),
        ('classifier.2', torch.arange(4) > 0, 'an output of the model'),
    ],
)
def test_masks_that_cannot_be_are_refused_and_nothing_changes(layer, mask, message):
    model, batch = build('chain')
    before = snapshot(model)
    with pytest.raises(ValueError, match=f'keep mask of {layer}: {message}'):
        prune_channels_by_mask(model, batch, {layer: mask})
    assert_same(snapshot(model), before)


def test_part_of_a_group_of_a_grouped_convolution_cannot_go_alone():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 1, 1))
    with pytest.raises(ValueError, match=r'keep mask of 0: channels \[1\] cannot be removed'):
        prune_channels_by_mask(
            model, torch.randn(1, 3, 4, 4), {'0': torch.tensor([1, 0, 1, 1]) > 0}
        )


# --- bad input --------------------------------------------------------------------------------


class Failing(nn.Conv2d):
    def forward(self, x):
        raise KeyError('the original error')


def ddp(model):
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT='29511')
    torch.distributed.init_process_group('gloo', rank=0, world_size=1)
    try:
        return DistributedDataParallel(model)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    'make, batches, kwargs, error, message',
    [
        (Failing, [X], {}, RuntimeError, 'cannot trace Failing .KeyError: .the original error'),
        (None, [], {}, ValueError, 'batches is empty'),
        (None, [X.to('meta')], {}, ValueError, 'a batch is on meta and Chain on cpu; move'),
        (ddp, [X], {}, TypeError, 'DistributedDataParallel .*pass model.module'),
        (None, [X], dict(forward_fn=lambda m, x: None), ValueError, 'Chain: .*no tensor'),
        (None, [X], dict(criterion='alive'), ValueError, "criterion must be .* got 'alive'"),
        (None, [X, X.to('meta')], {}, ValueError, 'a batch is on meta'),
        (None, [X, X[:, :2]], {}, RuntimeError, 'expected input'),
        (None, [X], dict(criterion=['dead']), ValueError, 'criterion must be'),
        (None, [X], dict(round_to=0), ValueError, 'round_to must be an int >= 1, got 0'),
        (None, [X], dict(min_channels=0), ValueError, 'min_channels must be'),
        (None, [X], dict(tolerance=float('nan')), ValueError, 'tolerance must be'),
        (None, [X], dict(tolerance='small'), ValueError, 'tolerance must be'),
        (None, [X], dict(eps=-1.0), ValueError, 'eps must be a number >= 0, got -1.0'),
    ],
)
def test_bad_input_is_one_clear_error_and_changes_nothing(make, batches, kwargs, error, message):
    model = build('chain')[0] if make is not Failing else Failing(3, 4, 1)
    before = snapshot(model)
    wrapped = ddp(model) if make is ddp else model
    with pytest.raises(error, match=message):
        prune_dead_channels(wrapped, batches, **kwargs)
    if make is ddp or 'tolerance' in kwargs:
        with pytest.raises(error, match=message):
            prune_channels_by_mask(wrapped, X, {}, **kwargs)
    assert_same(snapshot(model), before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_layer_that_only_a_later_batch_runs_is_refused():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 2))

        def forward(self, x):
            h = torch.relu(self.a(x))
            return self.b(h) if len(x) < 3 else self.c(h)

    model = Branches()
    before = snapshot(model)
    with pytest.raises(ValueError, match='c runs on a later batch and not on the first'):
        prune_dead_channels(model, [torch.randn(2, 3), torch.randn(4, 3)])
    assert_same(snapshot(model), before)
    assert not model.c._forward_pre_hooks


def test_random_numbers_of_the_caller_are_not_used_up():
    class Noisy(nn.Sequential):
        def forward(self, x):
            return super().forward(x + torch.rand_like(x))  # in eval mode too

    model = Noisy(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).double()
    model[0].weight.data[1], model[0].bias.data[1] = 0, -1
    state = torch.get_rng_state()
    result = prune_dead_channels(model, [X], tolerance=1e-12)  # the same noise on both sides
    assert result.channels_removed == {'0': 1}
    assert torch.equal(torch.get_rng_state(), state)
