"""psBN in a run: its betas are in an optimizer, decay, and alpha is added once at most."""

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn
from toy import toy_runner

from mmpsbn.engine.norms.beta_decay import check_betas_held
from mmpsbn.layers import psBN2d

QUIET = dict(type='DemPHook', prune=dict(interval=2))


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class OnCopies:
    """As Apex does it: the optimizer has parameters of its own."""

    def __init__(self, *_, **__):
        pass

    def __call__(self, model):
        copies = [nn.Parameter(p.detach().clone()) for p in model.parameters()]
        return OptimWrapper(torch.optim.SGD(copies, lr=0.1))


@pytest.mark.parametrize('hook', [QUIET | dict(penalty=dict(peak=0.0)), dict(type='SparsityHook')])
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


class Biases(Hook):
    """The bias of the first norm before the first step."""

    priority = 'VERY_LOW'

    def before_train(self, runner):
        self.first = runner.model.norm.bias.detach().clone()


def train(folder, hooks=(), **settings):
    biases = Biases()
    runner = toy_runner(folder, [*hooks, biases], norm='psBN', epochs=2, **settings)
    runner.train()
    return runner, biases.first


def test_alpha_is_added_to_loaded_biases_once(tmp_path):
    add = dict(type='AddAlphaHook')
    source, fresh = train(tmp_path / 'source', [add])
    assert torch.equal(fresh, torch.full_like(fresh, 0.1)), 'a fresh layer has its alpha'
    # BatchNorm's: without the mark
    checkpoint = torch.load(tmp_path / 'source/epoch_2.pth', weights_only=False)
    del checkpoint['meta']['psbn_alpha_added']
    torch.save(checkpoint, tmp_path / 'bn.pth')
    loaded = checkpoint['state_dict']['norm.bias']
    _, plain = train(tmp_path / 'plain', load_from=str(tmp_path / 'bn.pth'))
    assert torch.equal(plain, loaded)
    first, added = train(tmp_path / 'first', [add], load_from=str(tmp_path / 'bn.pth'))
    assert torch.equal(added, loaded + 0.1)
    ended = first.model.norm.bias.detach().clone()
    _, again = train(tmp_path / 'second', [add], load_from=str(tmp_path / 'first/epoch_2.pth'))
    assert torch.equal(again, ended)
    middle = torch.load(tmp_path / 'first/epoch_1.pth', weights_only=False)['state_dict']
    resumed, begun = train(
        tmp_path / 'third', [add], load_from=str(tmp_path / 'first/epoch_1.pth'), resume=True
    )
    assert torch.equal(begun, middle['norm.bias'])
    assert torch.equal(resumed.model.norm.bias, ended)


def test_alpha_is_not_added_to_what_an_init_cfg_reads_from_a_run_with_the_hook(tmp_path):
    train(tmp_path / 'source', [dict(type='AddAlphaHook')])
    path = tmp_path / 'source/epoch_2.pth'
    checkpoint = torch.load(path, weights_only=False)
    stored = checkpoint['state_dict']['norm.bias']

    def first_bias(name, file):
        init_cfg = dict(type='Pretrained', checkpoint=str(file))
        model = MODELS.build(dict(type='ToyNet', norm_cfg=dict(type='psBN'), init_cfg=init_cfg))
        return train(tmp_path / name, [dict(type='AddAlphaHook')], model=model)[1]

    assert torch.equal(first_bias('again', path), stored)
    del checkpoint['meta']['psbn_alpha_added']
    torch.save(checkpoint, tmp_path / 'bn.pth')
    assert torch.equal(first_bias('first', tmp_path / 'bn.pth'), stored + 0.1)


def test_without_psbn_there_is_nothing_to_add_to(tmp_path):
    with pytest.raises(ValueError, match='no psBN layer found in ToyNet'):
        toy_runner(tmp_path, [dict(type='AddAlphaHook')]).train()
