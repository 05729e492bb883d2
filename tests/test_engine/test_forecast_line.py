"""The forecast that SparsityHook logs when training starts."""

import math
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import CosineAnnealingLR, LinearMomentum, OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS, PARAM_SCHEDULERS
from runs import hook_of, resume_from, train
from toy import toy_runner

from mmpsbn.engine.sparsity.forecast import _scheduled_lrs, collapse_forecast

WATCH = dict(type='SparsityHook')
SGD = dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-3)


@PARAM_SCHEDULERS.register_module(force=True)
class OwnLR(CosineAnnealingLR):
    """A scheduler that is not MMEngine's."""


@PARAM_SCHEDULERS.register_module(force=True)
class OwnMomentum(LinearMomentum):
    """A scheduler that is not MMEngine's, of no learning rate."""


@HOOKS.register_module(force=True)
class RecordLR(Hook):
    """Learning rates of ``fc``: foreseen at the start, and those that came."""

    def before_train(self, runner):
        optimizer = runner.optim_wrapper.optimizer
        group = optimizer.param_groups[-1]
        part = SimpleNamespace(wrapper=runner.optim_wrapper, group=group)
        self.foreseen, self.lrs = _scheduled_lrs(runner, part), []
        optimizer.register_step_pre_hook(lambda *_: self.lrs.append(group['lr']))


def recorded(work_dir, **kwargs):
    runner = toy_runner(work_dir, [dict(type='RecordLR')], epochs=3, **kwargs)
    runner.train()
    hook = hook_of(runner, RecordLR)
    assert hook.foreseen == pytest.approx(hook.lrs, rel=1e-12)
    return len(hook.lrs)


SCHEDULES = {
    'none': None,
    'warmup and cosine': [
        dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4),
        dict(type='CosineAnnealingLR', by_epoch=False, begin=4, end=12, T_max=8, eta_min=1e-4),
    ],
    'by epoch': dict(type='MultiStepLR', by_epoch=True, milestones=[1, 2], gamma=0.1),
    'poly': dict(type='PolyLR', by_epoch=False, power=0.9, eta_min=1e-4, end=12),
    'one cycle': dict(type='OneCycleLR', by_epoch=False, eta_max=0.2, total_steps=12),
    'with momentum': [
        dict(type='ExponentialLR', by_epoch=False, gamma=0.9),
        dict(type='OwnMomentum', by_epoch=False, start_factor=0.5, end=6),
    ],
}


@pytest.mark.parametrize(
    'name, accumulate', [*((name, 1) for name in SCHEDULES if name != 'poly'), ('poly', 5)]
)
def test_foreseen_learning_rates_are_those_that_come(tmp_path, name, accumulate):
    wrapper = dict(
        optimizer=SGD,
        accumulative_counts=accumulate,
        paramwise_cfg=dict(custom_keys={'fc': dict(lr_mult=0.5)}),  # a group of each parameter
    )
    steps = recorded(tmp_path, optim_wrapper=wrapper, param_scheduler=SCHEDULES[name])
    assert steps == math.ceil(12 / accumulate)


def test_a_schedule_that_prints_its_steps_is_followed_in_silence(tmp_path):
    schedule = dict(type='ConstantLR', by_epoch=False, factor=0.5, end=3, verbose=True)
    _, messages = train(tmp_path, [WATCH], epochs=1, param_scheduler=schedule)
    # of building it and of the four steps of the run; the forecast comes before all but one
    assert len([m for m in messages if m.startswith('Adjusting parameter value')]) <= 4


def test_foreseen_from_where_a_run_is_resumed(tmp_path):
    schedule = SCHEDULES['warmup and cosine']
    toy_runner(tmp_path, epochs=3, param_scheduler=schedule).train()
    go_on = resume_from(tmp_path / 'epoch_1.pth')
    assert recorded(tmp_path, param_scheduler=schedule, **go_on) == 8


def forecast_line(work_dir, *prepare, hook=WATCH, **kwargs):
    _, messages = train(work_dir, [hook], *prepare, epochs=1, **kwargs)
    lines = [m for m in messages if m.startswith('forecast:')]
    assert len(lines) == 1
    return lines[0]


def test_the_sentence_of_a_run_too_short(tmp_path):
    line = forecast_line(tmp_path)
    # lr lambda / (1 - m) = 5e-4 a step
    assert 'under SGD with L2 weight_decay=0.001, a filter that dies now at |gamma| = 1 ' in line
    assert 'keeps 0.998 of it over 4 steps (log decay 0.002, needed 6.91)' in line
    assert '|gamma| < 0.001 cannot see filters that die in this run, activations can' in line
    assert line.endswith('(48 of 48 trained gammas, 0 without weight decay)')


def test_the_sentence_of_a_run_that_shows_collapse(tmp_path):
    wrapper = dict(optimizer=dict(type='AdamW', lr=0.1, weight_decay=9))
    hook = dict(type='SparsityHook', gamma_threshold=0.1)
    line = forecast_line(tmp_path, optim_wrapper=wrapper, hook=hook)
    # 0.9 a step, and log(10) = 2.3
    assert 'under AdamW with decoupled weight_decay=9, ' in line
    assert 'counts as collapsed (|gamma| < 0.1) after 3 of 4 steps' in line


def test_decay_of_gamma_is_read_from_its_own_param_groups(tmp_path):
    none = dict(optimizer=SGD, paramwise_cfg=dict(norm_decay_mult=0.0))
    line = forecast_line(tmp_path / 'none', optim_wrapper=none)
    assert line == (
        'forecast: no weight decay on gamma, so a dead filter keeps its gamma: '
        '|gamma| < 0.001 cannot see filters that die in this run'
    )
    part = dict(optimizer=SGD, paramwise_cfg=dict(custom_keys={'bn1': dict(decay_mult=0.0)}))
    line = forecast_line(tmp_path / 'part', optim_wrapper=part)
    assert line.endswith('(24 of 48 trained gammas, 24 without weight decay)')
    keys = {'bn1': dict(decay_mult=0.0), 'bn2': dict(decay_mult=2.0)}
    most = dict(optimizer=SGD, paramwise_cfg=dict(custom_keys=keys))
    line = forecast_line(tmp_path / 'most', optim_wrapper=most)
    assert 'weight_decay=0.002, ' in line and line.endswith(
        '(16 of 48 trained gammas, 24 without weight decay)'
    )


def test_frozen_gammas_are_not_forecast(tmp_path):
    def freeze(runner):
        for module in runner.model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.requires_grad_(False)

    line = forecast_line(tmp_path, freeze)
    assert line == 'forecast: no gamma is trained, so no filter can newly collapse'


def test_gammas_below_the_threshold_or_not_finite_are_left_out_of_the_median(tmp_path):
    def shrink(value):
        def prepare(runner):
            for module in runner.model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    torch.nn.init.constant_(module.weight, value)
            torch.nn.init.constant_(runner.model.norm.weight, 0.25)
            runner.model.norm.weight.data[0] = 0.4  # not the mean

        return prepare

    for value in (0.0, math.inf):
        line = forecast_line(tmp_path / f'{value}', shrink(value))
        assert '|gamma| = 0.25 ' in line
    hook = dict(type='SparsityHook', gamma_threshold=0.5)
    line = forecast_line(tmp_path / 'all', shrink(math.nan), hook=hook)
    assert line == 'forecast: none, as every gamma is below 0.5 already or not finite'


@pytest.mark.parametrize(
    'kwargs, said',
    [
        (
            dict(param_scheduler=dict(type='OwnLR', T_max=3)),
            'the learning rates to come are known only as training goes on',
        ),
        (
            dict(optim_wrapper=dict(optimizer=dict(type='Adam', lr=0.01, weight_decay=0.1))),
            'under Adam the gamma of a dead filter shrinks at a rate that depends on its past '
            'gradients; it is known for SGD, AdamW and the Decoupled optimizers',
        ),
        (
            dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, weight_decay=20.0))),
            'weight_decay=20 is too strong for lr=0.1: gamma oscillates or diverges',
        ),
        (  # (1 - sqrt(0.9))^2 is 0.00263, from where on gamma swings through 0
            dict(optim_wrapper=dict(optimizer=SGD | dict(lr=0.1, weight_decay=0.027))),
            'weight_decay=0.027 is too strong for lr=0.1: gamma oscillates or diverges',
        ),
    ],
)
def test_what_cannot_be_foreseen_is_said(tmp_path, kwargs, said):
    assert forecast_line(tmp_path, **kwargs) == f'forecast: none, as {said}'


def test_a_run_that_is_over(tmp_path):
    toy_runner(tmp_path, epochs=1).train()
    line = forecast_line(tmp_path, **resume_from(tmp_path / 'epoch_1.pth'))
    assert line == 'forecast: no step is left in this run'


def test_several_optimizers(tmp_path):
    runner = toy_runner(tmp_path, epochs=1)
    sgd = runner.build_optim_wrapper(dict(optimizer=SGD))
    fc = torch.optim.Adam(runner.model.fc.parameters())
    runner.train_loop  # noqa: B018  builds it
    fc = OptimWrapper(fc)
    runner.param_schedulers = dict(main=[], fc=[OwnLR(fc, T_max=3)])
    runner.optim_wrapper = OptimWrapperDict(main=sgd, fc=fc)
    line = collapse_forecast(runner, threshold=1e-3)
    assert 'under SGD' in line
    runner.optim_wrapper = SimpleNamespace()
    assert collapse_forecast(runner, threshold=1e-3) == 'forecast: none under SimpleNamespace'
