import pytest
from mmengine.optim import build_optim_wrapper
from torch import nn
from toy import ToyNet, toy_runner

import mmpsbn  # noqa: F401

SGD = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-3)


class Norms(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = norm


def settings(model, optimizer=SGD, **paramwise_cfg):
    """Parameter name -> (lr, weight decay)."""
    wrapper = build_optim_wrapper(
        model,
        dict(
            constructor='NormOptimWrapperConstructor',
            optimizer=optimizer,
            paramwise_cfg=paramwise_cfg,
        ),
    )
    names = {p: name for name, p in model.named_parameters()}
    return {
        names[p]: (pytest.approx(group['lr']), pytest.approx(group['weight_decay']))
        for group in wrapper.optimizer.param_groups
        for p in group['params']
    }


@pytest.mark.parametrize('norm', ['BN', 'psBN', 'psIN', 'IN', 'psGN', 'GN'])
def test_gamma_and_beta_by_the_layers_type(norm):
    kwargs = dict(num_groups=4) if 'GN' in norm else {}
    kwargs.update(dict(affine=True) if norm == 'IN' else {})
    model = ToyNet(norm_cfg=dict(type=norm, **kwargs))
    found = settings(model, gamma_lr_mult=0.1, gamma_decay_mult=2, beta_lr_mult=3)
    gammas = {n for n in found if 'norm' in n or 'bn' in n if n.endswith('weight')}
    betas = {n for n in found if 'norm' in n or 'bn' in n if n.endswith('bias')}
    assert len(gammas) == len(betas) == 5
    for name, value in found.items():
        expected = (0.01, 2e-3) if name in gammas else (0.3, 1e-3) if name in betas else (0.1, 1e-3)
        assert value == expected, name


def test_layer_norm_too():
    found = settings(Norms(nn.LayerNorm(8)), beta_decay_mult=0)
    assert found['norm.bias'] == (0.1, 0) and found['norm.weight'] == (0.1, 1e-3)


def test_with_mmengines_own_multipliers():
    found = settings(
        Norms(nn.BatchNorm2d(8)),
        norm_decay_mult=0.5,
        bias_lr_mult=2,
        bias_decay_mult=4,
        gamma_decay_mult=0.1,
        beta_lr_mult=0.1,
    )
    assert found == {
        'conv.weight': (0.1, 1e-3),
        'conv.bias': (0.2, 4e-3),
        'norm.weight': (0.1, 0.5e-4),
        'norm.bias': (0.01, 0.5e-3),
    }
    # MMEngine applies this one to a norm's bias, too
    found = settings(Norms(nn.BatchNorm2d(8)), bias_decay_mult=0.5, beta_decay_mult=0.1)
    assert found['norm.bias'] == (0.1, 0.5e-4)


def test_custom_keys_come_first():
    model = nn.Sequential()
    model.add_module('backbone', Norms(nn.BatchNorm2d(8)))
    model.add_module('head', Norms(nn.BatchNorm2d(8)))
    found = settings(
        model, custom_keys={'backbone': dict(lr_mult=0.5, decay_mult=0)}, gamma_lr_mult=0.1
    )
    assert found['backbone.norm.weight'] == (0.05, 0) and found['head.norm.weight'] == (0.01, 1e-3)


def test_a_shared_layer_is_multiplied_once():
    norm = nn.BatchNorm2d(8)
    model = nn.Sequential(nn.Sequential(norm), nn.Sequential(norm))
    found = settings(model, gamma_lr_mult=0.1, bypass_duplicate=True)
    assert found['0.0.weight'] == (0.01, 1e-3)


def test_without_the_new_entries_it_is_the_default():
    model = Norms(nn.BatchNorm2d(8))
    assert settings(model, norm_decay_mult=0) == {
        'conv.weight': (0.1, 1e-3),
        'conv.bias': (0.1, 1e-3),
        'norm.weight': (0.1, 0),
        'norm.bias': (0.1, 0),
    }


def test_schedulers_keep_the_ratio(tmp_path):
    runner = toy_runner(
        tmp_path,
        epochs=2,
        param_scheduler=[dict(type='ExponentialLR', gamma=0.5)],
        optim_wrapper=dict(
            constructor='NormOptimWrapperConstructor',
            optimizer=SGD,
            paramwise_cfg=dict(gamma_lr_mult=0.1),
        ),
    )
    runner.train()
    lrs = {round(group['lr'], 6) for group in runner.optim_wrapper.optimizer.param_groups}
    assert lrs == {0.05, 0.005}  # the second epoch's


@pytest.mark.parametrize(
    'optimizer, entries, message',
    [
        (SGD, dict(gamma_lr_mult=-1), 'gamma_lr_mult must be a finite number >= 0, got -1'),
        (SGD, dict(beta_decay_mult='0'), "beta_decay_mult must be a finite number >= 0, got '0'"),
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
        settings(Norms(nn.BatchNorm2d(8)), optimizer, **entries)


def test_a_model_without_norm_layers():
    with pytest.raises(ValueError, match='Linear has no normalisation layer: take the multipl'):
        settings(nn.Linear(2, 2), gamma_lr_mult=0.1)
    settings(nn.Linear(2, 2), bias_lr_mult=0.1)


def test_frozen_parameters_are_left_out():
    model = Norms(nn.BatchNorm2d(8))
    model.norm.weight.requires_grad = False
    found = settings(model, gamma_lr_mult=0.1, beta_lr_mult=0.1)
    assert 'norm.weight' not in found and found['norm.bias'] == (0.01, 1e-3)
