"""The run that a config describes, ready to start and never started."""

from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from .launch import type_name


def planned_runner(cfg: Config, model: nn.Module, *, epoch_length: int, work_dir: str) -> Runner:
    """A runner with optimizer and schedules, as ``train()`` builds them, of a model that exists.

    No data is read and no hook of the config runs, so it serves where the training data is not.

    Args:
        epoch_length: iterations in an epoch of the training data.
        work_dir: for MMEngine's log file.

    Raises:
        ValueError: the config has no training settings.
    """
    for key in ('train_cfg', 'optim_wrapper', 'train_dataloader'):
        if cfg.get(key) is None:
            raise ValueError(f'{cfg.filename} has no {key}')
    batch_size = cfg.train_dataloader.get('batch_size') or 1
    runner = Runner(
        model=model,
        work_dir=work_dir,
        train_dataloader=DataLoader(range(epoch_length * batch_size), batch_size),
        train_cfg=dict(cfg.train_cfg),
        optim_wrapper=_without_amp(cfg.optim_wrapper),
        param_scheduler=cfg.get('param_scheduler'),
        auto_scale_lr=cfg.get('auto_scale_lr'),
        default_scope=cfg.get('default_scope', 'mmengine'),
        log_level='ERROR',
        experiment_name=f'planned_{id(model)}',
    )
    runner.train_loop  # noqa: B018  builds it: what is below asks for the length of the run
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.scale_lr(runner.optim_wrapper, runner.auto_scale_lr)
    if runner.param_schedulers is not None:
        runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    return runner


def _without_amp(wrapper: dict) -> dict:
    """The same optimizer without mixed precision, which cannot be built without a GPU."""
    if type_name(wrapper.get('type', 'OptimWrapper')) != 'AmpOptimWrapper':
        return wrapper
    own = ('type', 'loss_scale', 'dtype', 'use_fsdp')
    return {key: value for key, value in wrapper.items() if key not in own}
