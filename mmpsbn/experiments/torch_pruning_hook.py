"""Torch-Pruning (Fang et al., CVPR 2023) in a training of ours: it couples, chooses and cuts."""

import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from torch import Tensor, nn
from torch.optim import Optimizer

from ..engine.checkpoints.pruned_checkpoint_hook import PrunedCheckpointHook
from ..engine.checkpoints.pruned_structure import PrunedStructure
from ..engine.demp.budget_schedule import BudgetSchedule
from ..engine.demp.settings import BudgetSettings
from ..engine.openmmlab import example_inputs, forward_tensors, trace_at_any_size
from ..engine.runner_parts import averaged_models_of, optimizers_of
from ..pruning import PrunePlan
from ..pruning.cost import count_positions, model_cost
from ..pruning.forward import evaluating, output_dim
from ..pruning.plan import named_tensors

_HALVINGS = 10  # of the interval of ratios


@HOOKS.register_module()
class TorchPruningHook(Hook):
    """Finetune a trained model that Torch-Pruning's ``MetaPruner`` cuts when DemPHook would.

    At each cut the same ratio of every layer goes, by the L2 norms of all that belongs to a channel
    (``GroupMagnitudeImportance``, which its examples on detectors have). The ratio is that of ten
    halvings which comes nearest to the MACs. Its parameters are new ones: the optimizer goes on
    with them, without their momentum. What has gone is noted in the runner's
    :class:`.PrunedCheckpointHook`.

    Args:
        macs: fraction to be left, in (0, 1).
        round_to: widths are multiples of this after the last cut, and any before it, for each
            rounding takes something from every layer.

    Raises:
        ImportError: Torch-Pruning is not installed.
        ValueError: macs out of range; before the training, a run on several ranks, with an
            average of the model, or without PrunedCheckpointHook.
        RuntimeError: at a cut, Torch-Pruning has changed what no plan says.
    """

    def __init__(self, macs: float, round_to: int):
        try:
            import torch_pruning  # noqa: F401
        except ImportError as error:
            raise ImportError(
                f'TorchPruningHook needs torch-pruning ({error}); run pip install torch-pruning'
            ) from error
        self._budget, self._round_to = BudgetSettings(flops=macs), round_to
        self._schedule = BudgetSchedule(())

    def before_train(self, runner) -> None:
        if is_model_wrapper(runner.model) or averaged_models_of(runner):
            raise ValueError(
                'TorchPruningHook prunes the model of one rank, without averages: train on one '
                'device, and take EMAHook out'
            )
        _structure_of(runner)  # refuses a run without one
        self._schedule = BudgetSchedule.of_run(
            self._budget, finetunes=True, iters=runner.max_iters, iters_per_step=1
        )

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        event = runner.iter + 1
        if event not in self._schedule.events:
            return
        model, structure = runner.model, _structure_of(runner)
        graph, image = trace_at_any_size(model, example_inputs(model, data_batch, 1))
        positions = count_positions(model, image, forward_tensors)
        dense = model_cost(model, positions, structure.plan.shapes).macs
        planned = dense * (1 - self._schedule.share(event) * (1 - self._budget.value))
        round_to = self._round_to if event == self._schedule.events[-1] else None

        def prune(model: nn.Module, ratio: float) -> PrunePlan:
            return _prune(model, ratio, image, round_to, outputs=list(graph.skipped))

        frozen = [name for name, of in model.named_parameters() if not of.requires_grad]
        model.requires_grad_(True)  # Torch-Pruning sees what has a gradient
        low, high, tried = 0.0, 1.0, {0.0: model_cost(model, positions).macs}
        for _ in range(_HALVINGS):
            ratio = (low + high) / 2
            trial = copy.deepcopy(model)
            prune(trial, ratio)
            tried[ratio] = model_cost(trial, positions).macs
            low, high = (low, ratio) if tried[ratio] <= planned else (ratio, high)
        ratio = min(tried, key=lambda ratio: abs(tried[ratio] - planned))
        before = dict(model.named_parameters())
        structure.extend(prune(model, ratio))
        after = dict(model.named_parameters())
        for name in frozen:
            after[name].requires_grad = False
        for optimizer in optimizers_of(runner):
            _replace(optimizer, {old: after[name] for name, old in before.items()})
        runner.logger.info(
            f'Torch-Pruning: {ratio:.1%} of each layer go; {tried[ratio] / dense:.1%} of the MACs '
            f'left, {planned / dense:.1%} planned'
        )


def _structure_of(runner) -> PrunedStructure:
    """Where a checkpoint's plan is kept."""
    for hook in runner.hooks:
        if isinstance(hook, PrunedCheckpointHook):
            return hook.structure
    raise ValueError(
        'TorchPruningHook notes what has gone in PrunedCheckpointHook, which this run lacks: start '
        "it with mmpsbn train, or add dict(type='PrunedCheckpointHook')"
    )


def _prune(
    model: nn.Module, ratio: float, image: Tensor, round_to: int | None, outputs: Sequence[str]
) -> PrunePlan:
    """Remove a ratio of every layer but the ``outputs``."""
    import torch_pruning

    shapes = {name: tuple(of.shape) for name, of in named_tensors(model).items()}
    layers = {module: name for name, module in model.named_modules()}
    kept: dict[tuple[str, int], list[int]] = {}
    with evaluating(model):
        pruner = torch_pruning.pruner.MetaPruner(
            model,
            image,
            torch_pruning.importance.GroupMagnitudeImportance(),
            pruning_ratio=ratio,
            ignored_layers=[model.get_submodule(name) for name in outputs],
            round_to=round_to,
            # its defaults are shared by all pruners, and keep what they are given
            in_channel_groups={},
            out_channel_groups={},
            forward_fn=forward_tensors,
        )
    for group in pruner.step(interactive=True):
        gone = defaultdict(set)
        for dependency, index in group:
            if dependency.target.module in layers:  # not an operation
                writes = pruner.DG.is_out_channel_pruning_fn(dependency.handler)
                gone[dependency.target.module, writes].update(index)
        for (module, writes), index in gone.items():
            for name, dim in _dimensions(module, layers[module], writes, shapes):
                before = kept.get((name, dim), range(shapes[name][dim]))
                kept[name, dim] = [k for i, k in enumerate(before) if i not in index]
        group.prune()
    plan = PrunePlan({name: shapes[name] for name, _ in kept}, {})
    for (name, dim), index in kept.items():
        plan.kept.setdefault(name, {})[dim] = tuple(index)
    left = {name: tuple(of.shape) for name, of in named_tensors(model).items()}
    wrong = {name for name in shapes if left[name] != (shapes | plan.shapes_after())[name]}
    if wrong:
        raise RuntimeError(
            f'Torch-Pruning has pruned {sorted(wrong)} in a way that TorchPruningHook does not '
            'know: it knows convolutions, linear and normalisation layers'
        )
    return plan


def _dimensions(
    module: nn.Module, layer: str, writes: bool, shapes: dict[str, tuple[int, ...]]
) -> Iterator[tuple[str, int]]:
    """Of a layer, the tensors and their dimensions that its output or its input channels are."""
    if not writes:
        yield f'{layer}.weight', 1 - output_dim(module)
        return
    for name in ('weight', 'bias', 'running_mean', 'running_var'):
        if shapes.get(f'{layer}.{name}'):
            yield f'{layer}.{name}', output_dim(module) if name == 'weight' else 0


def _replace(optimizer: Optimizer, parameters: dict[nn.Parameter, nn.Parameter]) -> None:
    for group in optimizer.param_groups:
        group['params'] = [parameters[old] for old in group['params']]
    for old, new in parameters.items():
        if new is not old:
            optimizer.state.pop(old, None)
