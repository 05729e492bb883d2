"""What stays takes over from what goes, against scikit-learn's ridge regression, in float64."""

import copy
from contextlib import ExitStack

import nets
import numpy as np
import pytest
import torch
from nets import NETS, conv_bn, random_masks, trace
from sklearn.linear_model import Ridge
from snapshots import assert_same, snapshot
from torch import nn

from mmpsbn.pruning import reconstruction
from mmpsbn.pruning.forward import first_argument
from mmpsbn.pruning.reconstruction import InputMoments


class ChannelsLast(nn.Module):
    """A flatten behind which a channel is every fifth position."""

    def __init__(self):
        super().__init__()
        self.stem, self.out = conv_bn(3, 5), nn.Linear(5 * 64, 4)

    def forward(self, x):
        return self.out(self.stem(x).permute(0, 2, 3, 1).flatten(1))


class InputsFirst(nn.Linear):
    """Its weight has the dimension of the inputs first, and as many outputs."""

    def forward(self, x):
        return torch.mm(x, self.weight)


class Strided(nn.Module):
    """Kernels, strides, paddings and dilations that differ by dimension."""

    def __init__(self):
        super().__init__()
        odd = dict(kernel_size=(3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2))
        self.stem, self.middle, self.last = (
            conv_bn(3, 6),
            nn.Conv2d(6, 5, **odd, bias=False),
            nn.Conv2d(5, 2, (1, 3), padding=(0, 1)),
        )

    def forward(self, x):
        return self.last(self.middle(self.stem(x)).relu())


class Padded(nn.Module):
    """Paddings that are not numbers of zeros: what a kernel reads at the border is not 0, or how
    much is padded is not said."""

    def __init__(self):
        super().__init__()
        self.stem, self.middle, self.last = (
            conv_bn(3, 6),
            nn.Conv2d(6, 5, 3, padding=1, padding_mode='reflect'),
            nn.Conv2d(5, 2, 3, padding='same'),
        )

    def forward(self, x):
        return self.last(self.middle(self.stem(x)).relu())


class Square(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.out, self.last = (
            conv_bn(3, 6),
            InputsFirst(6, 6, bias=False),
            nn.Linear(6, 2),
        )

    def forward(self, x):
        return self.last(self.out(self.stem(x).mean((2, 3))))


MORE = dict(channels_last=ChannelsLast, padded=Padded, square=Square, strided=Strided)
# Where in what a linear layer reads each channel is, if not in one position.
PLACES = dict(
    chain={'classifier.0': torch.arange(32).view(8, 4)},
    psbn_chain={'classifier.0': torch.arange(32).view(8, 4)},
    channels_last={'out': torch.arange(320).view(64, 5).T},
)
INPUTS_FIRST = nn.ConvTranspose2d, InputsFirst


def build(name):
    """As that of ``nets``, also of the nets here."""
    if name not in MORE:
        return nets.build(name)
    torch.manual_seed(0)
    return MORE[name]().double().train(), torch.randn(3, 3, 8, 8, dtype=torch.float64)


def taps_of(layer, together):
    """Of each channel, those that are looked at together."""
    plain = together and isinstance(layer, nn.Conv2d) and layer.groups == 1
    plain = plain and layer.padding_mode == 'zeros' and not isinstance(layer.padding, str)
    taps = layer.weight[0, 0].numel() if plain else 1
    return taps if plain and layer.in_channels * taps <= reconstruction._MOST_NUMBERS else 1


def inputs_read(model, layers, batches, together):
    """Layer -> what it reads in training, shape (samples, positions), or of a convolution
    (samples, channels * taps)."""
    found = {name: [] for name in layers}
    with ExitStack() as hooks:
        for name in layers:

            def note(module, args, kwargs, name=name):
                x = first_argument(module, args, kwargs).detach()
                if taps_of(module, together) > 1:
                    where = module.kernel_size, module.dilation, module.padding, module.stride
                    x = nn.functional.unfold(x, *where)
                last = x if isinstance(module, nn.Linear) else x.movedim(1, -1)
                found[name].append(last.reshape(-1, last.shape[-1]))

            layer = model.get_submodule(name)
            hooks.enter_context(layer.register_forward_pre_hook(note, with_kwargs=True))
        for batch in batches:
            model(batch)
    return {name: torch.cat(parts) for name, parts in found.items()}


def moments_of(model, groups, batches, **kwargs):
    moments = InputMoments(model, groups, **kwargs)
    for batch in batches:
        model(batch)
    moments.close()
    return moments


def ridge_regression(x, y):
    """Coefficients of y (samples, R) without an intercept, shape (R, K); x (samples, K)."""
    ridge = float(x.square().mean(0).mean()) * x.shape[1]  # mean diag M times K over samples
    regression = Ridge(alpha=ridge, fit_intercept=False, solver='cholesky')
    return torch.from_numpy(np.atleast_2d(regression.fit(x.numpy(), y.numpy()).coef_))


def positions_that_go(groups, masks):
    """Reader -> those of its input."""
    gone = {}
    for name, mask in masks.items():
        for reader in groups[name].readers:
            gone.setdefault(reader.layer, set()).update(reader.positions(~mask))
    return gone


def channels_of(name, layer, x):
    """(where each channel is, the channels at all places of all samples)."""
    places = PLACES.get(name, {}).get(layer, torch.arange(x.shape[1])[:, None])
    return places, x[:, places].transpose(1, 2).flatten(0, 1)


@pytest.mark.parametrize('together, most_numbers', [(False, 4096), (True, 4096), (True, 64)])
@pytest.mark.parametrize('name', [*NETS, *MORE])
def test_weights_take_over_what_a_ridge_regression_predicts(
    name, together, most_numbers, monkeypatch
):
    """Each place alone, or all taps of a convolution together where they are not too many."""
    monkeypatch.setattr(reconstruction, '_MOST_NUMBERS', most_numbers)
    model, batch = build(name)
    groups = trace(model, batch).groups
    masks = random_masks(groups)
    batches = [batch, 0.5 - batch]
    gone = positions_that_go(groups, masks)
    read = inputs_read(copy.deepcopy(model), gone, batches, together)
    before = copy.deepcopy(model)
    moments = moments_of(model, groups, batches, taps=together)
    average = copy.deepcopy(before)
    for parameter in average.parameters():
        parameter.data *= -2
    with moments.reconstructed([model, average], masks):
        pass
    for layer, positions in gone.items():
        weight, found = (m.get_submodule(layer).weight.detach() for m in (before, model))
        dim = 0 if isinstance(model.get_submodule(layer), INPUTS_FIRST) else 1
        taps = taps_of(model.get_submodule(layer), together)
        if taps > 1:  # a number that goes or stays is a channel under a tap
            positions = {position * taps + tap for position in positions for tap in range(taps)}
            weight, found = weight.flatten(1), found.flatten(1)
        places, x = channels_of(name, layer, read[layer])
        if len(places) > most_numbers:
            assert torch.equal(found, weight)
            continue
        goes = torch.tensor([int(row[0]) in positions for row in places])
        prediction = ridge_regression(x[:, ~goes], x[:, goes])
        expected = weight.movedim(dim, 0).clone()
        for row, channel in zip(prediction, places[goes]):
            for factor, kept in zip(row, places[~goes]):
                expected[kept] += factor * expected[channel]
        told = x[:, goes].any() and x[:, ~goes].any()
        assert not told or not torch.allclose(expected, weight.movedim(dim, 0))
        torch.testing.assert_close(found.movedim(dim, 0), expected, rtol=1e-7, atol=1e-9)
        twice = average.get_submodule(layer).weight
        torch.testing.assert_close(
            twice.detach(), (-2 * found).view_as(twice), rtol=1e-7, atol=1e-9
        )
    weights = {f'{layer}.weight' for layer in gone}
    for key, parameter in before.named_parameters():
        assert key in weights or torch.equal(parameter, model.get_parameter(key))


def chain():
    model, batch = build('chain')
    groups = trace(model, batch).groups
    return model, batch, groups, random_masks(groups)


def test_what_fails_within_puts_all_weights_back():
    model, batch, groups, masks = chain()
    moments = moments_of(model, groups, [batch])
    before = snapshot(model)
    with pytest.raises(KeyboardInterrupt):
        with moments.reconstructed([model], masks):
            with pytest.raises(AssertionError):
                assert_same(snapshot(model), before)
            raise KeyboardInterrupt
    assert_same(snapshot(model), before)


def weights_after(model, groups, masks, *passes):
    """Weights after a reconstruction from what was seen in some passes."""
    moments = InputMoments(model, groups, taps=True)
    for make in passes:
        make()
    with moments.reconstructed([model], masks):
        return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_only_training_passes_of_the_model_itself_tell_anything():
    model, batch, groups, masks = chain()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def others():
        copy.deepcopy(model)(7 * batch)  # the copy has the hooks too
        model.eval()(7 * batch)
        model.train()

    for name, weight in weights_after(model, groups, masks, others).items():
        assert torch.equal(weight, before[name])


def test_a_single_picture_tells_what_a_batch_of_one_does():
    model, _ = build('strided')
    groups = trace(model, torch.randn(3, 3, 8, 8, dtype=torch.float64)).groups
    picture = torch.randn(5, 9, 9, dtype=torch.float64)
    found = []
    for x in (picture, picture[None]):
        moments = InputMoments(model, groups, taps=True)
        model.last(x)
        found.append(moments._sums['last'])
        moments.close()
    assert found[0].any() and torch.equal(*found)


@pytest.mark.parametrize('value', [torch.nan, torch.inf])
def test_a_layer_that_saw_no_number_stays_as_it_is(value):
    model, batch, groups, masks = chain()
    before = model.classifier[0].weight.detach().clone()

    def spoilt(module, args):
        return (args[0].index_fill(1, torch.tensor([0]), value),)

    model.classifier[0].register_forward_pre_hook(spoilt)
    with moments_of(model, groups, [batch]).reconstructed([model], masks) as unchanged:
        assert unchanged == ['classifier.0', 'classifier.2']  # which reads what it makes of it
        assert torch.equal(model.classifier[0].weight, before)
        assert not torch.equal(model.features[4].weight, build('chain')[0].features[4].weight)


def test_ranks_sum_what_they_have_seen():
    model, batch, groups, masks = chain()
    one, two = (moments_of(model, groups, batches) for batches in ([batch], [batch, -batch]))
    other = iter(moments_of(model, groups, [-batch])._sums.values())
    one.join(lambda total, op: total + (next(other) if total.dim() else total))
    found = []
    for moments in (one, two):
        net = copy.deepcopy(model)
        with moments.reconstructed([net], masks):
            found.append(net)
    for name, weight in found[1].named_parameters():
        torch.testing.assert_close(found[0].get_parameter(name), weight)
    assert torch.equal(found[0].features[0].weight, model.features[0].weight)  # reads pictures


def relative_error(found, expected):
    return float((found - expected).norm() / expected.norm())


def test_moments_are_summed_in_float32_under_autocast():
    model, batch, groups, masks = chain()
    model, batch = model.float(), batch.float()
    read = {}
    layer = model.features[4]
    layer.register_forward_pre_hook(lambda module, args: read.update(x=args[0].detach().double()))
    before = layer.weight.detach().double()

    def step():
        with torch.autocast('cpu', torch.bfloat16):
            model(batch)

    after = weights_after(model, groups, masks, step)['features.4.weight'].double()
    goes = ~masks['features.0']
    x = nn.functional.unfold(read['x'], 3, padding=1).movedim(1, -1).flatten(0, 1)
    goes = goes.repeat_interleave(9)
    change = before.flatten(1)[:, goes] @ ridge_regression(x[:, ~goes], x[:, goes])
    assert relative_error((after - before).flatten(1)[:, ~goes], change) < 1e-4


def test_layers_of_more_channels_than_can_be_solved_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(reconstruction, '_MOST_NUMBERS', 6)
    model, batch, groups, masks = chain()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    after = weights_after(model, groups, masks, lambda: model(batch))
    changed = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert changed == {'features.4.weight', 'features.7.weight'}


@pytest.mark.parametrize('shape', [(256, 6, 32, 32), (9000, 6, 3, 3), (20_000, 6)])
def test_of_many_places_a_sample_of_all_is_seen(shape):
    """Columns of the pictures and samples differ in scale; the moments are those of all."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    mixed = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    x = torch.tensordot(mixed, x, dims=([1], [1])).movedim(0, 1)
    if x.dim() == 4:
        x = x * torch.linspace(0.1, 3, shape[3]).double()
    last = x.movedim(1, -1)
    samples = reconstruction._samples(last)
    assert 4096 < len(samples) <= 8192
    everything = last.reshape(-1, 6)
    found, expected = (y.T @ y / len(y) for y in (samples, everything))
    assert relative_error(found, expected) < 0.05
