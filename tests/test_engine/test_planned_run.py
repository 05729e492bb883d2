"""The run that a config describes, and its forecast under other optimizers."""

import math

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from toy import ToyNet, toy_runner

from mmpsbn.commands.planned_run import planned_runner
from mmpsbn.engine.sparsity.forecast import collapse_forecast, compared_forecasts, gamma_lrs

SGD = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-2)


def config(optimizer=SGD, **kwargs):
    return Config(
        dict(
            train_dataloader=dict(batch_size=8, dataset=dict(type='nowhere')),
            train_cfg=dict(by_epoch=True, max_epochs=30),
            optim_wrapper=dict(optimizer=optimizer),
            param_scheduler=dict(
                type='CosineAnnealingLR', T_max=30, by_epoch=True, convert_to_iter_based=True
            ),
            **kwargs,
        )
    )


def planned(tmp_path, optimizer=SGD, **kwargs):
    return planned_runner(
        config(optimizer, **kwargs), ToyNet(), epoch_length=20, work_dir=str(tmp_path)
    )


def test_the_schedule_is_that_of_the_run_and_no_data_is_needed(tmp_path):
    runner = planned(tmp_path)
    assert runner.max_iters == 600
    cosine = [0.05 * (1 + math.cos(math.pi * step / 600)) for step in range(600)]
    assert gamma_lrs(runner) == pytest.approx(cosine)
    assert collapse_forecast(runner, threshold=1e-3).startswith('forecast: under SGD with L2')


def test_the_learning_rate_is_scaled_as_in_training(tmp_path):
    runner = planned(tmp_path, auto_scale_lr=dict(enable=True, base_batch_size=16))
    assert gamma_lrs(runner)[0] == pytest.approx(0.05)


def test_what_a_config_lacks_is_named(tmp_path):
    cfg = config()
    cfg.optim_wrapper = None
    with pytest.raises(ValueError, match='has no optim_wrapper'):
        planned_runner(cfg, ToyNet(), epoch_length=1, work_dir=str(tmp_path))


def test_under_adam_l2_is_orders_of_magnitude_faster_than_decoupled(tmp_path):
    found = compared_forecasts(planned(tmp_path), threshold=1e-3)
    assert list(found) == ['SGD with L2, lr 0.1', 'Adam with L2, lr 0.001', 'AdamW, lr 0.001']
    sgd, adam, adamw = found.values()
    # AdamW multiplies by 1 - lr * lambda: half of 600 steps of the cosine's peak in all
    assert adamw.log_decay == pytest.approx(600 * 1e-3 * 1e-2 / 2, rel=1e-2)
    # SGD by lr * lambda / (1 - m)
    assert sgd.log_decay == pytest.approx(600 * 0.1 * 1e-2 / 2 / 0.1, rel=0.05)
    assert adam.log_decay > 100 * adamw.log_decay
    assert {f.num_steps for f in found.values()} == {600} and sgd.gamma == 1


def test_the_run_s_own_rule_keeps_its_settings(tmp_path):
    adamw = dict(type='AdamW', lr=0.02, betas=(0.5, 0.9), weight_decay=1e-2)
    found = compared_forecasts(planned(tmp_path, adamw), threshold=1e-3)
    assert list(found) == ['SGD with L2, lr 0.1', 'Adam with L2, lr 0.02', 'AdamW, lr 0.02']
    assert found['AdamW, lr 0.02'].log_decay == pytest.approx(600 * 0.02 * 1e-2 / 2, rel=1e-2)


@pytest.mark.parametrize(
    'optimizer', [dict(SGD, weight_decay=0), dict(type='Rprop', lr=0.1), dict(SGD, lr=0.0)]
)
def test_no_comparison_where_nothing_decays(tmp_path, optimizer):
    assert compared_forecasts(planned(tmp_path, optimizer), threshold=1e-3) == {}


def test_no_comparison_of_scales_below_the_threshold_or_not_trained(tmp_path):
    runner = planned(tmp_path)
    assert compared_forecasts(runner, threshold=2.0) == {}
    frozen = toy_runner(tmp_path / 'frozen')
    frozen.model.requires_grad_(False)
    frozen.optim_wrapper = OptimWrapper(torch.optim.SGD([torch.zeros(1)], lr=0.1))
    frozen._train_loop = frozen.build_train_loop(frozen._train_loop)
    assert compared_forecasts(frozen, threshold=1e-3) == {} and gamma_lrs(frozen) is None


def test_an_optimizer_under_which_the_decay_diverges_is_left_out(tmp_path):
    """A decay of 500 per learning rate is 5 % a step, which SGD at 0.1 does not survive."""
    runner = planned(tmp_path, dict(type='AdamW', lr=1e-4, weight_decay=500.0))
    found = compared_forecasts(runner, threshold=1e-3)
    assert list(found) == ['Adam with L2, lr 0.0001', 'AdamW, lr 0.0001']
    runner = planned(tmp_path, dict(type='SGD', lr=1.0, weight_decay=1e3))
    assert 'none, the weight decay is so strong' in collapse_forecast(runner, threshold=1e-3)


def test_the_lambda_of_a_full_step_is_compared_with_none(tmp_path):
    runner = planned(tmp_path, dict(type='DecoupledAdam', lr=1e-4, weight_decay=0.05))
    assert compared_forecasts(runner, threshold=1e-3) == {}
    assert 'DecoupledAdam' in collapse_forecast(runner, threshold=1e-3)


def test_mixed_precision_is_planned_without_a_gpu(tmp_path):
    wrapper = dict(type='AmpOptimWrapper', dtype='float16', optimizer=SGD, accumulative_counts=2)
    cfg = config()
    cfg.optim_wrapper = wrapper
    runner = planned_runner(cfg, ToyNet(), epoch_length=20, work_dir=str(tmp_path))
    assert type(runner.optim_wrapper) is OptimWrapper and len(gamma_lrs(runner)) == 300
