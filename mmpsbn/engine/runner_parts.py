"""What stands in a runner: the bare model, its optimizers and averages, its epochs."""

import gc
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from mmengine.hooks import EarlyStoppingHook, EMAHook, Hook
from mmengine.model import BaseAveragedModel, BaseTTAModel, is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict, ReduceOnPlateauParamScheduler
from mmengine.runner import EpochBasedTrainLoop
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ..upstream import wrap_model


def unwrap(model: nn.Module) -> nn.Module:
    """The model within wrappers for ranks and for test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def bare_model(runner) -> nn.Module:
    return unwrap(runner.model)


@contextmanager
def whole_weights(runner) -> Iterator[None]:
    """Within, each rank has all of the weights, also where FSDP keeps a part on each; what is
    written to them is lost. Ranks call it together."""
    if isinstance(runner.model, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(runner.model, writeback=False):
            yield
    else:
        yield


def wrappers_of(runner) -> list[OptimWrapper]:
    """The optimizers' wrappers: one, or those of an OptimWrapperDict."""
    wrapper = runner.optim_wrapper
    return list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]


def optimizers_of(runner) -> list[Optimizer]:
    """The built optimizers; empty in a run that only tests."""
    return optimizers_in(runner.optim_wrapper)


def optimizers_in(wrapper: OptimWrapper | OptimWrapperDict | dict | None) -> list[Optimizer]:
    """Those that a wrapper holds; none in what is not built."""
    if isinstance(wrapper, OptimWrapperDict):
        return [w.optimizer for w in wrapper.values()]
    return [wrapper.optimizer] if isinstance(wrapper, OptimWrapper) else []


def groups_by_parameter(optimizers: Iterable[Optimizer]) -> dict[nn.Parameter, dict]:
    """Parameter -> the param group that holds it."""
    return {p: group for o in optimizers for group in o.param_groups for p in group['params']}


def schedulers_of(runner) -> list:
    """The built schedulers of all optimizers."""
    schedulers = runner.param_schedulers or []
    if isinstance(schedulers, dict):
        return [s for part in schedulers.values() for s in part]
    return schedulers


def averaged_models_of(runner) -> list[nn.Module]:
    """The models that EMA hooks keep; they must have the trained model's structure."""
    return [unwrap(averaged.module) for averaged in _ema_models_of(runner)]


def _ema_models_of(runner) -> list[BaseAveragedModel]:
    hooks = (hook for hook in runner.hooks if isinstance(hook, EMAHook))
    return [hook.ema_model for hook in hooks if hasattr(hook, 'ema_model')]


def pruning_hook(runner) -> Hook | None:
    """The hook that changes the model's structure while the run trains (DemPHook)."""
    return next((h for h in runner.hooks if getattr(h, 'prunes_while_training', False)), None)


def check_replaceable(model: nn.Module, *, who: str) -> None:
    """Raises TypeError, in the name of ``who`` needs it, unless the model is plain, or in one DDP
    wrapper that can be put around it anew after its parameters have changed shape."""
    inner = (name for name, m in unwrap(model).named_modules() if is_model_wrapper(m))
    if is_model_wrapper(model) and not isinstance(model, DistributedDataParallel):
        what = f'{type(model).__name__}, which holds its parameters in another form'
    elif (name := next(inner, None)) is not None:
        what = f'{type(model).__name__}, which wraps {name} by itself'
    else:
        return
    raise TypeError(
        f'{who} needs a plain or DDP model, got {what}; train with MMDistributedDataParallel'
    )


@contextmanager
def unwrapped_model(runner, *, who: str) -> Iterator[nn.Module]:
    """The bare model, free to change shape, and its averages with it; DDP is wrapped around it
    anew on exit.

    The old DDP wrapper must be gone before a parameter changes shape: its reducer
    holds gradient accumulators that know the old one.

    Args:
        who: see :func:`check_replaceable`.
    """
    check_replaceable(runner.model, who=who)
    wrapped = is_model_wrapper(runner.model)
    if wrapped:
        _set_model(runner, runner.model.module)
        gc.collect()
    try:
        yield bare_model(runner)
    finally:
        if wrapped:
            _set_model(runner, _wrapped(runner))
        for averaged in _ema_models_of(runner):
            if averaged.update_buffers:  # MMEngine writes through tensors that it took once
                averaged.avg_parameters = averaged.module.state_dict()


def _set_model(runner, model: nn.Module) -> None:
    runner.model = model
    if hasattr(runner, 'strategy'):  # FlexibleRunner's, which holds the model too
        runner.strategy.model = model


def _wrapped(runner) -> nn.Module:
    if hasattr(runner, 'strategy'):
        return wrap_model(runner.strategy, runner.model)
    return runner.wrap_model(runner.cfg.get('model_wrapper_cfg'), runner.model)


def in_epochs(runner) -> bool:
    """Whether the run trains by epochs, and not by iterations."""
    return isinstance(runner.train_loop, EpochBasedTrainLoop)


def epoch_length(loader) -> int | None:
    """Batches of a data loader; None where its data have no length (``IterableDataset``)."""
    try:
        return len(loader)
    except TypeError:
        return None


def batch_size(loader) -> int:
    """Samples in a batch of a data loader, on one rank."""
    return loader.batch_size or loader.batch_sampler.batch_size


def forget_best(runner) -> None:
    """Of a model with other channels nothing was validated yet: the next score is the best one so
    far, for the checkpoint that ``save_best`` keeps (it replaces the earlier one), for
    EarlyStoppingHook and for schedulers that wait for a plateau."""
    info = runner.message_hub
    for name in [name for name in info.runtime_info if name.startswith('best_score')]:
        info.pop_info(name)
    for hook in runner.hooks:
        if isinstance(hook, EarlyStoppingHook):
            hook.best_score = -math.inf if hook.rule == 'greater' else math.inf
    for scheduler in schedulers_of(runner):
        if isinstance(scheduler, ReduceOnPlateauParamScheduler):
            scheduler.best, scheduler.num_bad_epochs = scheduler.rule_worse, 0
