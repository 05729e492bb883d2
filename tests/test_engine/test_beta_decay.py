"""psBN in a run: its betas are in an optimizer, decay, and alpha is added once at most."""

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from runs import demp, hook_of, resume_from, train
from torch import nn
from toy import toy_runner

from mmpsbn.engine.norms.beta_decay import check_betas_held
from mmpsbn.layers import psBN2d

WATCH = dict(type='SparsityHook')
ADD = dict(type='AddAlphaHook')


def sgd(weight_decay, **kwargs):
    return dict(optimizer=dict(type='SGD', lr=0.01, weight_decay=weight_decay), **kwargs)


def freeze_all_but_one(runner):
    for name in ('norm', 'blocks.0.bn1', 'blocks.0.bn2', 'blocks.1.bn1'):
        runner.model.get_submodule(name).requires_grad_(False)


@pytest.mark.parametrize(
    'norm, optim_wrapper, prepare, layers',
    [
        ('psBN', sgd(0.0), (), 5),
        ('psBN', sgd(0.1, paramwise_cfg=dict(norm_decay_mult=0.0)), (), 5),
        ('psBN', sgd(0.0), [freeze_all_but_one], 1),
        ('psBN', sgd(1e-3), (), 0),
        ('BN', sgd(0.0), (), 0),
    ],
)
def test_psbn_without_decay_on_beta_is_said_once_with_its_layers(
    tmp_path, norm, optim_wrapper, prepare, layers
):
    hooks = [WATCH, demp(interval=2)]
    kwargs = dict(norm=norm, epochs=1, optim_wrapper=optim_wrapper)
    _, messages = train(tmp_path, hooks, *prepare, **kwargs)
    said = [m for m in messages if 'no weight decay on beta' in m]
    assert [m.startswith(f'{layers} psBN layers') for m in said] == [True] * bool(layers)
    assert all('blocks.1.bn2' in m for m in said)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class OnCopies:
    """As Apex does it: the optimizer has parameters of its own."""

    def __init__(self, *_, **__):
        pass

    def __call__(self, model):
        copies = [nn.Parameter(p.detach().clone()) for p in model.parameters()]
        return OptimWrapper(torch.optim.SGD(copies, lr=0.1))


@pytest.mark.parametrize('hook', [demp(), WATCH])
def test_an_optimizer_on_copies_is_refused_before_the_first_step(tmp_path, hook):
    runner = toy_runner(
        tmp_path, [hook], norm='psBN', epochs=1, optim_wrapper=dict(constructor='OnCopies')
    )
    with pytest.raises(TypeError, match='5 psBN layers .* in no optimizer: norm, blocks.0.bn1'):
        runner.train()
    assert runner.iter == 0


def test_what_is_frozen_or_held_passes_and_what_is_left_out_is_named():
    model = nn.Sequential(psBN2d(3), psBN2d(3), psBN2d(3))
    model[0].requires_grad_(False)
    first, second = (torch.optim.SGD(part.parameters(), lr=0.1) for part in (model[1], model[2]))
    check_betas_held(model, [first, second])
    with pytest.raises(TypeError, match=r'1 psBN layers are trained .*: 2\. An optimizer on'):
        check_betas_held(model, [first])
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    with pytest.raises(TypeError, match=r'1 psBN layers are trained .*: 1\. An optimizer on'):
        check_betas_held(converted, [second])


def test_the_constructor_looks_too(monkeypatch):
    model = nn.Sequential(nn.Conv2d(3, 3, 1), psBN2d(3))
    settings = dict(constructor='NormOptimWrapperConstructor', optimizer=dict(type='SGD', lr=0.1))
    build_optim_wrapper(model, dict(settings))
    monkeypatch.setattr('mmpsbn.engine.norms.beta_decay.calls_step_hooks', lambda optimizer: False)
    with pytest.raises(TypeError, match='torch calls no hooks of optimizers in this process'):
        build_optim_wrapper(model, dict(settings))


class Begin(Hook):
    """The bias of the first norm before the first step."""

    priority = 'VERY_LOW'

    def before_train(self, runner):
        self.bias = runner.model.norm.bias.detach().clone()


def begin(folder, hooks=(), **settings):
    """The biases of the first norm at the beginning and at the end of a run."""
    runner, _ = train(folder, [*hooks, Begin()], norm='psBN', epochs=2, **settings)
    return hook_of(runner, Begin).bias, runner.model.norm.bias.detach()


def stored(path):
    """A checkpoint, and the bias of its first norm."""
    checkpoint = torch.load(path, weights_only=False)
    return checkpoint, checkpoint['state_dict']['norm.bias']


def as_of_a_bn(folder):
    """A path to the same weights without the mark that alpha is in them."""
    checkpoint, _ = stored(folder / 'epoch_2.pth')
    del checkpoint['meta']['psbn_alpha_added']
    torch.save(checkpoint, folder / 'bn.pth')
    return str(folder / 'bn.pth')


def test_alpha_is_added_to_loaded_biases_once(tmp_path):
    fresh, loaded = begin(tmp_path / 'source', [ADD])
    assert torch.equal(fresh, torch.full_like(fresh, 0.1)), 'a fresh layer has its alpha'
    bn = as_of_a_bn(tmp_path / 'source')
    assert torch.equal(begin(tmp_path / 'plain', load_from=bn)[0], loaded)
    added, ended = begin(tmp_path / 'first', [ADD], load_from=bn)
    assert torch.equal(added, loaded + 0.1)
    own = str(tmp_path / 'first/epoch_2.pth')
    assert torch.equal(begin(tmp_path / 'second', [ADD], load_from=own)[0], ended)
    middle = tmp_path / 'first/epoch_1.pth'
    begun, resumed = begin(tmp_path / 'third', [ADD], **resume_from(middle))
    assert torch.equal(begun, stored(middle)[1]) and torch.equal(resumed, ended)


def test_alpha_is_not_added_to_what_an_init_cfg_reads_from_a_run_with_the_hook(tmp_path):
    begin(tmp_path / 'source', [ADD])
    path = tmp_path / 'source/epoch_2.pth'

    def first_bias(name, file):
        init_cfg = dict(type='Pretrained', checkpoint=str(file))
        model = MODELS.build(dict(type='ToyNet', norm_cfg=dict(type='psBN'), init_cfg=init_cfg))
        return begin(tmp_path / name, [ADD], model=model)[0]

    assert torch.equal(first_bias('again', path), stored(path)[1])
    assert torch.equal(first_bias('first', as_of_a_bn(tmp_path / 'source')), stored(path)[1] + 0.1)


def test_without_psbn_there_is_nothing_to_add_to(tmp_path):
    with pytest.raises(ValueError, match='no psBN layer found in ToyNet'):
        toy_runner(tmp_path, [ADD]).train()
