"""Learning rate and decay of gamma and beta, apart from the rest of the net."""

import pytest
from mmengine.optim import build_optim_wrapper
from torch import nn
from toy import ToyNet

SGD = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-3)
PLAIN = (0.1, 1e-3)  # lr and weight decay of SGD


def constructor(optimizer=SGD, **paramwise_cfg):
    return dict(
        constructor='NormOptimWrapperConstructor', optimizer=optimizer, paramwise_cfg=paramwise_cfg
    )


def settings(model, optimizer=SGD, **paramwise_cfg):
    """Parameter name -> (lr, weight decay)."""
    wrapper = build_optim_wrapper(model, constructor(optimizer, **paramwise_cfg))
    names = {p: name for name, p in model.named_parameters()}
    return {
        names[p]: (pytest.approx(group['lr']), pytest.approx(group['weight_decay']))
        for group in wrapper.optimizer.param_groups
        for p in group['params']
    }


class Norms(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = norm


@pytest.mark.parametrize('norm', ['BN', 'psBN', 'psIN', 'IN', 'psGN', 'GN'])
def test_gamma_and_beta_by_the_layers_type(norm):
    kwargs = dict(num_groups=4) if 'GN' in norm else dict(affine=True) if norm == 'IN' else {}
    model = ToyNet(norm_cfg=dict(type=norm, **kwargs))
    found = settings(model, gamma_lr_mult=0.1, gamma_decay_mult=2, beta_lr_mult=3)
    norms = {name for name in found if 'norm' in name or 'bn' in name}
    assert len(norms) == 10
    for name, value in found.items():
        of_norm = (0.01, 2e-3) if name.endswith('weight') else (0.3, 1e-3)
        assert value == (of_norm if name in norms else PLAIN), name


def one_norm():
    return Norms(nn.BatchNorm2d(8))


def two_norms():
    return nn.ModuleDict(dict(backbone=one_norm(), head=one_norm()))


def shared_norm():
    norm = nn.BatchNorm2d(8)
    return nn.Sequential(nn.Sequential(norm), nn.Sequential(norm))


def frozen_gamma():
    model = one_norm()
    model.norm.weight.requires_grad = False
    return model


OF_BASE = dict(norm_decay_mult=0.5, bias_lr_mult=2, bias_decay_mult=4)
CASES = {
    'a layer norm': (
        lambda: Norms(nn.LayerNorm(8)),
        dict(beta_decay_mult=0),
        {'norm.weight': PLAIN, 'norm.bias': (0.1, 0)},
    ),
    "behind MMEngine's own": (
        one_norm,
        OF_BASE | dict(gamma_decay_mult=0.1, beta_lr_mult=0.1),
        {
            'conv.weight': PLAIN,
            'conv.bias': (0.2, 4e-3),
            'norm.weight': (0.1, 0.5e-4),
            'norm.bias': (0.01, 0.5e-3),
        },
    ),
    'the bias multiplier, which MMEngine applies to a norm too': (
        one_norm,
        dict(bias_decay_mult=0.5, beta_decay_mult=0.1),
        {'norm.bias': (0.1, 0.5e-4)},
    ),
    'without the new entries': (
        one_norm,
        dict(norm_decay_mult=0),
        {'conv.bias': PLAIN, 'norm.weight': (0.1, 0), 'norm.bias': (0.1, 0)},
    ),
    'custom keys come first': (
        two_norms,
        dict(custom_keys={'backbone': dict(lr_mult=0.5, decay_mult=0)}, gamma_lr_mult=0.1),
        {'backbone.norm.weight': (0.05, 0), 'head.norm.weight': (0.01, 1e-3)},
    ),
    'a shared layer once': (
        shared_norm,
        dict(gamma_lr_mult=0.1, bypass_duplicate=True),
        {'0.0.weight': (0.01, 1e-3)},
    ),
    'what is frozen not at all': (
        frozen_gamma,
        dict(gamma_lr_mult=0.1, beta_lr_mult=0.1),
        {'norm.weight': None, 'norm.bias': (0.01, 1e-3)},
    ),
    'no norm layer and no entry of ours': (
        lambda: nn.Linear(2, 2),
        dict(bias_lr_mult=0.1),
        {'weight': PLAIN, 'bias': (0.01, 1e-3)},
    ),
}


@pytest.mark.parametrize('case', CASES)
def test_what_multiplies_what(case):
    build, paramwise_cfg, expected = CASES[case]
    found = settings(build(), **paramwise_cfg)
    assert {name: found.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    'optimizer, entries, message',
    [
        (SGD, dict(gamma_lr_mult=-1), 'gamma_lr_mult must be a finite number >= 0, got -1'),
        (
            dict(type='Adadelta', weight_decay=1e-4),
            dict(gamma_lr_mult=0.1),
            'gamma_lr_mult=0.1 multiplies lr, which the optimizer Adadelta is not given',
        ),
        (
            dict(type='SGD', lr=0.1),
            dict(beta_decay_mult=0.0),
            'beta_decay_mult=0.0 multiplies weight_decay',
        ),
    ],
)
def test_bad_settings(optimizer, entries, message):
    with pytest.raises(ValueError, match=message):
        settings(one_norm(), optimizer, **entries)


def test_a_model_without_norm_layers():
    with pytest.raises(ValueError, match='Linear has no normalisation layer: take the multipl'):
        settings(nn.Linear(2, 2), gamma_lr_mult=0.1)
