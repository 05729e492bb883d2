"""Decoupled decay in MMEngine runs."""

import pytest
import torch
from runs import assert_resumes, demp
from toy import toy_runner

from mmpsbn.engine.sparsity.forecast import collapse_forecast

NAMES = ['SGD', 'Adam', 'Adagrad', 'Adadelta', 'RMSprop', 'Adamax']


def wrapper(name='SGD', **settings):
    settings = {'lr': 0.05, 'weight_decay': 1e-3, **settings}
    return dict(optimizer=dict(type=f'Decoupled{name}', **settings))


@pytest.mark.parametrize('name', NAMES)
def test_a_resumed_run_ends_bit_equal(tmp_path, name):
    schedules = [
        dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=4),
        dict(type='CosineAnnealingLR', T_max=4),
        dict(type='ConstantParamScheduler', param_name='weight_decay', factor=0.5, end=2),
    ]
    how = dict(norm='psBN', optim_wrapper=wrapper(name, lr=0.01), param_scheduler=schedules)
    assert_resumes(tmp_path, [demp(penalty=0.05, noise=3e-3)], at='epoch_2.pth', **how)


def test_the_warmup_s_first_step_is_not_the_full_learning_rate(tmp_path):
    runner = toy_runner(
        tmp_path,
        epochs=1,
        optim_wrapper=wrapper(lr=0.05, weight_decay=0.1),
        param_scheduler=[dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=100)],
    )
    weight = runner.model.fc.weight
    before = weight.detach().clone()
    steps = []

    def note(optimizer, *_):
        steps.append((weight.detach().clone(), weight.grad.clone()))

    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.optim_wrapper.optimizer.register_step_pre_hook(note)
    runner.train()
    (_, grad), (after, _) = steps[:2]
    torch.testing.assert_close(after, before * (1 - 0.1 * 0.1) - 0.005 * grad)


def test_its_collapse_is_forecast(tmp_path):
    runner = toy_runner(tmp_path, epochs=50)
    adam = wrapper('Adam', lr=1e-4, weight_decay=0.05)
    runner.optim_wrapper = runner.build_optim_wrapper(adam)
    runner.train_loop  # noqa: B018  builds it
    forecast = collapse_forecast(runner, threshold=1e-3)
    # exp(-0.05 t) < 1e-3 after 139 steps
    assert 'under DecoupledAdam with decoupled weight_decay=0.05' in forecast
    assert 'after 139 of 200 steps' in forecast
