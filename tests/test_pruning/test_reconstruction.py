"""What stays takes over from what goes, against scikit-learn's ridge regression, in float64."""

import copy
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from nets import NETS, build, random_masks, trace
from sklearn.linear_model import Ridge
from snapshots import assert_same, snapshot
from torch import nn

from mmpsbn.pruning.forward import first_argument
from mmpsbn.pruning.reconstruction import InputMoments

# Where in what a linear layer reads each channel is, if not in one position.
PLACES = dict(
    chain={'classifier.0': torch.arange(32).view(8, 4)},
    mobile={'squeeze': torch.arange(12).view(6, 2), 'out': torch.arange(384).view(64, 6).T},
    shuffle={'out': torch.arange(48).view(6, 8)},  # two channels go together, at four places
)
PLACES['psbn_chain'] = PLACES['chain']


def inputs_read(model, layers, batches):
    """Layer -> what it reads in training, shape (samples, positions)."""
    found = {name: [] for name in layers}
    with ExitStack() as hooks:
        for name in layers:

            def note(module, args, kwargs, name=name):
                x = first_argument(module, args, kwargs).detach()
                last = x if isinstance(module, nn.Linear) else x.movedim(1, -1)
                found[name].append(last.reshape(-1, last.shape[-1]))

            layer = model.get_submodule(name)
            hooks.enter_context(layer.register_forward_pre_hook(note, with_kwargs=True))
        for batch in batches:
            model(batch)
    return {name: torch.cat(parts) for name, parts in found.items()}


def moments_of(model, groups, batches):
    moments = InputMoments(model, groups)
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


@pytest.mark.parametrize('name', NETS)
def test_weights_take_over_what_a_ridge_regression_predicts(name):
    model, batch = build(name)
    groups = trace(model, batch).groups
    masks = random_masks(groups)
    batches = [batch, 0.5 - batch]
    gone = positions_that_go(groups, masks)
    read = inputs_read(copy.deepcopy(model), gone, batches)
    before = copy.deepcopy(model)
    moments = moments_of(model, groups, batches)
    average = copy.deepcopy(before)
    for parameter in average.parameters():
        parameter.data *= -2
    with moments.reconstructed([model, average], masks):
        pass
    for layer, positions in gone.items():
        places, x = channels_of(name, layer, read[layer])
        goes = torch.tensor([int(row[0]) in positions for row in places])
        prediction = ridge_regression(x[:, ~goes], x[:, goes])
        weight, found = (m.get_submodule(layer).weight.detach() for m in (before, model))
        dim = 0 if isinstance(model.get_submodule(layer), nn.ConvTranspose2d) else 1
        expected = weight.movedim(dim, 0).clone()
        for row, channel in zip(prediction, places[goes]):
            for factor, kept in zip(row, places[~goes]):
                expected[kept] += factor * expected[channel]
        told = x[:, goes].any() and x[:, ~goes].any()
        assert not told or not torch.allclose(expected, weight.movedim(dim, 0))
        torch.testing.assert_close(found.movedim(dim, 0), expected, rtol=1e-7, atol=1e-9)
        twice = average.get_submodule(layer).weight
        torch.testing.assert_close(twice.detach(), -2 * found, rtol=1e-7, atol=1e-9)
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
    moments = InputMoments(model, groups)
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

    for name, weight in weights_after(copy.deepcopy(model), groups, masks, others).items():
        assert torch.equal(weight, before[name])


@pytest.mark.parametrize('value', [torch.nan, torch.inf])
def test_a_layer_that_saw_no_number_stays_as_it_is(value):
    model, batch, groups, masks = chain()
    before = model.classifier[0].weight.detach().clone()

    def spoilt(module, args):
        return (args[0].index_fill(1, torch.tensor([0]), value),)

    model.classifier[0].register_forward_pre_hook(spoilt)
    after = weights_after(model, groups, masks, lambda: model(batch))
    assert torch.equal(after['classifier.0.weight'], before)
    assert not torch.equal(after['features.4.weight'], build('chain')[0].features[4].weight)


def test_ranks_sum_what_they_have_seen():
    model, batch, groups, masks = chain()
    one, two = (moments_of(model, groups, batches) for batches in ([batch], [batch, -batch]))
    other = iter(moments_of(model, groups, [-batch])._sums.values())
    one.join(lambda total, op: total + (next(other) if total.dim() else total))
    found = []
    for moments in (one, two):
        net = copy.deepcopy(model)
        with moments.reconstructed([net], masks, agree=lambda weight: 3 * weight):
            found.append(net)
    for name, weight in found[1].named_parameters():
        torch.testing.assert_close(found[0].get_parameter(name), weight)
    assert torch.equal(found[0].features[0].weight, model.features[0].weight)  # reads pictures
