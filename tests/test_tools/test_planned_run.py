"""The run that a config describes."""

import math

import pytest
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from toy import ToyNet

from mmpsbn.analysis.report.config import planned_runner
from mmpsbn.engine.sparsity.forecast import collapse_forecast, gamma_lrs

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


def test_mixed_precision_is_planned_without_a_gpu(tmp_path):
    wrapper = dict(type='AmpOptimWrapper', dtype='float16', optimizer=SGD, accumulative_counts=2)
    cfg = config()
    cfg.optim_wrapper = wrapper
    runner = planned_runner(cfg, ToyNet(), epoch_length=20, work_dir=str(tmp_path))
    assert type(runner.optim_wrapper) is OptimWrapper and len(gamma_lrs(runner)) == 300
