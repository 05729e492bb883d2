"""BN <-> psBN on a built model."""

import copy
import pickle

import pytest
import torch
from draws import generator
from layer_cases import C, randomise
from torch import nn
from torch.nn.utils import parametrize, prune

from mmpsbn.layers import (
    PostShift,
    add_alpha,
    alpha_of,
    convert_from_psbn,
    convert_to_psbn,
    psBN1d,
    psBN2d,
    psBN3d,
    psGN,
    psIN,
    psSyncBN,
)

close = dict(rtol=1e-11, atol=1e-11)
PAIRS = {
    'BatchNorm1d': (lambda: nn.BatchNorm1d(C, eps=1e-3, momentum=0.3), psBN1d, (4, C)),
    'BatchNorm2d': (lambda: nn.BatchNorm2d(C, momentum=None), psBN2d, (4, C, 3, 3)),
    'BatchNorm3d': (lambda: nn.BatchNorm3d(C), psBN3d, (4, C, 2, 2, 2)),
    'InstanceNorm2d': (
        lambda: nn.InstanceNorm2d(C, affine=True, track_running_stats=True),
        psIN,
        (4, C, 3, 3),
    ),
    'GroupNorm': (lambda: nn.GroupNorm(2, C, eps=1e-2), psGN, (4, C, 3, 3)),
}


class Net(nn.Module):
    """A layer under two names, a layer in a list, a layer two levels down."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, C, 1)
        self.shared = nn.BatchNorm2d(C)
        self.alias = self.shared
        self.rest = nn.ModuleList(
            [nn.Sequential(nn.GroupNorm(2, C), nn.Conv2d(C, C, 1, bias=False)), nn.BatchNorm2d(C)]
        )

    def forward(self, x):
        x = self.rest[0](torch.relu(self.shared(self.stem(x))))
        return self.rest[1](torch.relu(self.alias(x)))


def settings(layer):
    names = 'eps', 'momentum', 'affine', 'track_running_stats', 'num_groups', 'training'
    return [getattr(layer, name, None) for name in names]


@pytest.mark.parametrize('name', PAIRS)
@pytest.mark.parametrize('training', [True, False])
def test_a_bare_layer_is_converted_and_computes_the_same_both_ways(name, training):
    build, ps_type, shape = PAIRS[name]
    plain = randomise(build()).double().train(training)
    x = torch.randn(shape, generator=generator(1), dtype=torch.float64)
    bias, described, plain_type = plain.bias, settings(plain), type(plain)
    expected = copy.deepcopy(plain)(x)
    layer = convert_to_psbn(plain, alpha=0.25)
    assert layer is plain and type(layer) is ps_type and layer.alpha == 0.25
    assert layer.bias is bias and alpha_of(bias) == 0.25 and settings(layer) == described
    torch.testing.assert_close(copy.deepcopy(layer)(x), expected, **close)
    back = convert_from_psbn(layer)
    assert type(back) is plain_type and back.bias is bias and settings(back) == described
    assert alpha_of(bias) is None and not hasattr(back, 'alpha')
    torch.testing.assert_close(back(x), expected, **close)


def test_a_model_keeps_its_parameters_and_a_shared_layer_stays_one():
    model = randomise(Net()).double().eval()
    x = torch.randn(3, 3, 4, 4, generator=generator(1), dtype=torch.float64)
    keys, parameters, before = list(model.state_dict()), list(model.parameters()), model(x)
    kinds = {lambda m: convert_to_psbn(m, alpha=0.3): psBN2d, convert_from_psbn: nn.BatchNorm2d}
    for convert, kind in kinds.items():
        assert convert(model) is model
        assert model.alias is model.shared and type(model.shared) is kind
        assert sum(isinstance(m, PostShift) for m in model.modules()) == (3 * (kind is psBN2d))
        assert list(model.state_dict()) == keys
        assert all(a is b for a, b in zip(model.parameters(), parameters))
        torch.testing.assert_close(model(x), before, **close)


def test_alpha_comes_on_top_once():
    model = randomise(nn.Sequential(nn.BatchNorm2d(C), psBN2d(C, alpha=0.5), psGN(C, 2)))
    model.append(psBN2d(C))
    before = [layer.bias.detach().clone() for layer in model]
    assert add_alpha(model) is model
    for layer, bias, alpha in zip(model, before, (0, 0.5, 0.1, 0)):
        assert torch.equal(layer.bias, bias + alpha)
    before = [layer.bias.detach().clone() for layer in model]
    with pytest.raises(ValueError, match='alpha=0.5 was added to the bias of 1 before'):
        add_alpha(copy.deepcopy(model))
    with pytest.raises(ValueError, match='alpha=0.1 was added to the bias of 1.0 before'):
        add_alpha(nn.Sequential(psBN2d(C), nn.Sequential(model[2])))
    for layer, bias in zip(model, before):
        assert torch.equal(layer.bias, bias)
    with pytest.raises(ValueError, match='no psBN layer found in Linear'):
        add_alpha(nn.Linear(2, 2))


def doubled(module, args, output):
    return 2 * output


class BatchNormAct2d(nn.BatchNorm2d):
    """As timm's: a norm with its activation."""

    def __init__(self, channels, slope):
        super().__init__(channels)
        self.act = nn.LeakyReLU(slope)

    def forward(self, x):
        return self.act(super().forward(x))


@pytest.mark.parametrize(
    'copied', [lambda m: m, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_a_subclass_keeps_its_forward_and_is_shifted(copied):
    model = nn.Sequential(BatchNormAct2d(C, 0.3), nn.InstanceNorm1d(C, affine=True)).double()
    randomise(model)
    model[0].register_forward_hook(doubled)
    x = torch.randn(3, C, 4, 4, dtype=torch.float64)
    expected = model[0](x)
    model = copied(convert_to_psbn(model, alpha=0.5))
    layer = model[0]
    assert isinstance(layer, BatchNormAct2d) and isinstance(layer, PostShift)
    assert type(layer).__name__ == 'psBatchNormAct2d' and layer.act.negative_slope == 0.3
    assert alpha_of(layer.bias) == alpha_of(model[1].bias) == 0.5
    assert torch.equal(layer(x), expected)
    back = convert_from_psbn(model)[0]
    assert type(back) is BatchNormAct2d and alpha_of(back.bias) is None
    assert torch.equal(back(x), expected)


class OwnAlpha(nn.BatchNorm2d):
    alpha = 2.0


def test_what_cannot_be_converted_is_named_and_stays():
    kinds = [nn.BatchNorm2d(C), nn.LazyBatchNorm2d(), OwnAlpha(C), nn.BatchNorm2d(C)]
    model = nn.Sequential(*kinds, nn.BatchNorm2d(C))
    parametrize.register_parametrization(model[3], 'weight', nn.Identity())
    prune.custom_from_mask(model[4], 'bias', torch.ones(C))
    kinds = [type(layer) for layer in model]
    message = (
        r'left as they are: 1 \(LazyBatchNorm2d without a width as yet\), 2 \(OwnAlpha with an '
        r'alpha or beta of its own\), 3 \(Parametrized\w+ with computed parameters\), '
        r'4 \(BatchNorm2d with computed parameters\)'
    )
    with pytest.warns(UserWarning, match=message):
        convert_to_psbn(model)
    assert [type(layer) for layer in model] == [psBN2d, *kinds[1:]]


def test_alpha_is_added_to_a_tied_bias_once_and_to_no_computed_one():
    model = randomise(nn.Sequential(psBN2d(C), psBN2d(C)))
    model[1].bias = model[0].bias
    before = model[0].bias.detach().clone()
    add_alpha(model)
    torch.testing.assert_close(model[1].bias.detach(), before + 0.1)
    with pytest.raises(ValueError, match='added to the bias of 0 before'):
        add_alpha(nn.Sequential(*model, psBN2d(C)))
    more = randomise(nn.Sequential(psBN2d(C), psBN2d(C)))
    more[1].bias = more[0].bias
    before = [layer.bias.detach().clone() for layer in (*model, *more)]
    add_alpha(nn.Sequential(*model, *more), strict=False)
    for layer, bias, alpha in zip((*model, *more), before, (0, 0, 0.1, 0.1)):
        torch.testing.assert_close(layer.bias.detach(), bias + alpha)
    masked = nn.Sequential(prune.custom_from_mask(randomise(psBN2d(C)), 'bias', torch.ones(C)))
    with pytest.raises(ValueError, match='the bias of 0 is computed'):
        add_alpha(masked)


class Derived(psBN2d):
    pass


def test_a_class_derived_from_psbn_has_no_plain_form():
    model = nn.Sequential(psBN2d(C), Derived(C))
    with pytest.raises(ValueError, match='1 is a Derived, which has no plain form'):
        convert_from_psbn(model)
    assert type(model[0]) is psBN2d


def test_sync_batch_norm_keeps_its_process_group():
    group = object()
    layer = convert_to_psbn(nn.SyncBatchNorm(C, process_group=group))
    assert type(layer) is psSyncBN and layer.process_group is group
    back = convert_from_psbn(layer)
    assert type(back) is nn.SyncBatchNorm and back.process_group is group


def test_layers_without_an_own_bias_and_psbn_itself_are_left_alone():
    model = nn.Sequential(
        nn.BatchNorm2d(C, affine=False),
        nn.InstanceNorm2d(C),
        psBN2d(C, alpha=0.7),
        nn.BatchNorm2d(C),
    )
    convert_to_psbn(model, alpha=0.1)
    assert [type(m) for m in model] == [nn.BatchNorm2d, nn.InstanceNorm2d, psBN2d, psBN2d]
    assert [m.alpha for m in model[2:]] == [0.7, 0.1]


@pytest.mark.parametrize(
    'model',
    [nn.Linear(2, 2), nn.Sequential(nn.BatchNorm2d(C, affine=False)), nn.Sequential(psBN2d(C))],
)
def test_nothing_to_convert_is_an_error(model):
    with pytest.raises(ValueError, match=f'no affine BatchNorm.* found in {type(model).__name__}'):
        convert_to_psbn(model)
    if not isinstance(model[0] if isinstance(model, nn.Sequential) else model, PostShift):
        with pytest.raises(ValueError, match=f'no psBN layer found in {type(model).__name__}'):
            convert_from_psbn(model)


def test_bad_arguments_change_nothing():
    model = nn.Sequential(nn.BatchNorm2d(C))
    with pytest.raises(ValueError, match='alpha must be > 0 and finite, got -1'):
        convert_to_psbn(model, alpha=-1)
    assert type(model[0]) is nn.BatchNorm2d
