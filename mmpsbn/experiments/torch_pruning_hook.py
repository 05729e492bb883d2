"""Torch-Pruning (Fang et al., CVPR 2023) in a training of ours: it couples, chooses and cuts."""

import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor, nn
from torch.optim import Optimizer

from ..engine.checkpoints.pruned_structure import PrunedStructure
from ..engine.openmmlab import batch_loss, example_inputs, forward_tensors, trace_at_any_size
from ..engine.runner_parts import bare_model, optimizers_of
from ..pruning import PrunePlan
from ..pruning.cost import count_positions, model_cost
from ..pruning.forward import evaluating
from ..pruning.plan import named_tensors

_HALVINGS = 10  # of the interval of ratios


@HOOKS.register_module()
class TorchPruningHook(Hook):
    """Cuts the model in equal steps of MACs with Torch-Pruning's ``MetaPruner``.

    At each cut the same share of every layer goes, as large as the MACs ask for, the rest in
    multiples of ``round_to``. Its parameters are new ones afterwards: the optimizer goes on with
    them, without momentum. What has gone is noted as a plan, so that the checkpoint loads.

    Args:
        macs: fraction to be left, in (0, 1).
        at: iterations after which it is cut.
        importance: 'magnitude' (L2 norms of all weights of a group, DepGraph's) or 'taylor'
            (|w dL/dw| on the batch of that iteration, by a pass of its own).
        round_to: multiples.
    """

    priority = 'ABOVE_NORMAL'  # before a checkpoint is saved

    def __init__(
        self, macs: float, at: Sequence[int], importance: str = 'magnitude', round_to: int = 8
    ):
        try:
            import torch_pruning
        except ImportError as error:
            raise ImportError(
                f'TorchPruningHook needs torch-pruning ({error}); run pip install torch-pruning'
            ) from error
        kinds = dict(
            magnitude=torch_pruning.importance.GroupMagnitudeImportance,
            taylor=torch_pruning.importance.GroupTaylorImportance,
        )
        self._importance = kinds[importance]()
        self._takes_gradients = importance == 'taylor'
        self._macs, self._at, self._round_to = macs, tuple(at), round_to
        self._structure = PrunedStructure()
        self._dense_macs = 0

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if runner.iter + 1 not in self._at:
            return
        model = bare_model(runner)
        image = example_inputs(model, data_batch, 1)
        graph, image = trace_at_any_size(model, image)
        positions = count_positions(model, image, forward_tensors)
        self._dense_macs = self._dense_macs or model_cost(model, positions).macs
        done = (self._at.index(runner.iter + 1) + 1) / len(self._at)
        most = self._dense_macs * (1 - done * (1 - self._macs))

        def prune(model: nn.Module, ratio: float) -> PrunePlan:
            return self._prune(model, ratio, image, outputs=list(graph.skipped))

        if self._takes_gradients:
            batch_loss(model, data_batch).backward()
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            ratio = (low + high) / 2
            trial = copy.deepcopy(model)
            if self._takes_gradients:
                _copy_gradients(model, trial)
            prune(trial, ratio)
            enough = model_cost(trial, positions).macs <= most
            low, high = (low, ratio) if enough else (ratio, high)
        names = {parameter: name for name, parameter in model.named_parameters()}
        plan = prune(model, high)
        model.zero_grad()
        for optimizer in optimizers_of(runner):
            _replace_parameters(optimizer, names, dict(model.named_parameters()))
        self._structure.extend(plan)
        left = model_cost(model, positions).macs / self._dense_macs
        runner.logger.info(f'Torch-Pruning: {high:.1%} of each layer go, {left:.1%} MACs left')

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        self._structure.save(checkpoint)

    def _prune(
        self, model: nn.Module, ratio: float, image: Tensor, outputs: Sequence[str]
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
                self._importance,
                pruning_ratio=ratio,
                ignored_layers=[model.get_submodule(name) for name in outputs],
                round_to=self._round_to,
                forward_fn=forward_tensors,
            )
        for group in pruner.step(interactive=True):
            gone = defaultdict(set)
            for dependency, index in group:
                if dependency.target.module in layers:  # not an operation
                    writes = pruner.DG.is_out_channel_pruning_fn(dependency.handler)
                    gone[dependency.target.module, 0 if writes else 1].update(index)
            for (module, dim), index in gone.items():
                for name in _tensors(layers[module], dim, shapes):
                    before = kept.get((name, dim), range(shapes[name][dim]))
                    kept[name, dim] = [k for i, k in enumerate(before) if i not in index]
            group.prune()
        plan = PrunePlan({name: shapes[name] for name, _ in kept}, {})
        for (name, dim), index in kept.items():
            plan.kept.setdefault(name, {})[dim] = tuple(index)
        return plan


def _tensors(layer: str, dim: int, shapes: dict[str, tuple[int, ...]]) -> Iterator[str]:
    """Of a layer, those that have the output (0) or the input channels (1) as a dimension."""
    for name in ('weight', 'bias', 'running_mean', 'running_var'):
        if len(shapes.get(f'{layer}.{name}', ())) > dim:
            yield f'{layer}.{name}'


def _copy_gradients(source: nn.Module, target: nn.Module) -> None:
    for one, other in zip(source.parameters(), target.parameters(), strict=True):
        other.grad = None if one.grad is None else one.grad.clone()


def _replace_parameters(
    optimizer: Optimizer, names: dict[nn.Parameter, str], now: dict[str, nn.Parameter]
) -> None:
    for group in optimizer.param_groups:
        for i, parameter in enumerate(group['params']):
            group['params'][i] = now[names[parameter]]
            if now[names[parameter]] is not parameter:
                optimizer.state.pop(parameter, None)
