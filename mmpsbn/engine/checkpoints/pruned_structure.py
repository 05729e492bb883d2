"""The structure a run has been pruned to, and its way in and out of checkpoints."""

from collections.abc import Mapping
from contextlib import ExitStack

from mmengine.hooks import EMAHook
from torch import Tensor, nn

from ...functional.checks import short_repr
from ...pruning import PrunePlan, apply_plan
from ...pruning.plan import compose_plans, named_tensors
from ...pruning.surgery import is_applied
from ...upstream import resumes, trains
from ..runner_parts import averaged_models_of, bare_model, optimizers_of, unwrapped_model

META_KEY = 'mmpsbn'


def saved_by(checkpoint: Mapping) -> Mapping | None:
    """What :meth:`PrunedStructure.save` wrote into a checkpoint; None if it did not.

    Raises:
        ValueError: it is not a dict.
    """
    meta = checkpoint.get('meta')
    saved = meta.get(META_KEY) if isinstance(meta, Mapping) else None
    if saved is not None and not isinstance(saved, Mapping):
        raise ValueError(f"the checkpoint's {META_KEY} must be a dict, got {short_repr(saved)}")
    return saved


def state_dict_of(checkpoint: Mapping) -> dict[str, Tensor]:
    """The tensors of a checkpoint, or of a bare state dict, by their names in the model."""
    state = checkpoint.get('state_dict', checkpoint)
    return {k.removeprefix('module.'): v for k, v in state.items() if isinstance(v, Tensor)}


class PrunedStructure:
    """All prune events of a run so far as one plan on the dense model."""

    def __init__(self):
        self.plan = PrunePlan({}, {})

    def extend(self, plan: PrunePlan) -> None:
        """Add a plan that was just applied."""
        self.plan = compose_plans(self.plan, plan)

    def save(self, checkpoint: dict, **extra) -> None:
        """Write the plan into ``checkpoint['meta']['mmpsbn']``, plain types only."""
        if self.plan or extra:
            checkpoint['meta'][META_KEY] = dict(plan=self.plan.to_dict(), **extra)

    def load(self, runner, checkpoint: dict) -> None:
        """Give the dense-built model the checkpoint's structure, before its weights.

        Raises:
            ValueError: plan and model, or checkpoint and model, do not fit; names the
                first tensor that differs. Or an averaged model would not follow, or a run is to be
                resumed from weights alone. Nothing changed.
        """
        if any(isinstance(h, EMAHook) and not hasattr(h, 'ema_model') for h in runner.hooks):
            raise ValueError(
                f'{type(runner).__name__} loads checkpoints before EMAHook has made its model, so '
                "the averages can neither be resumed nor pruned; use MMEngine's Runner, or leave "
                'EMAHook out'
            )
        saved = saved_by(checkpoint)
        plan = None if saved is None else PrunePlan.from_dict(saved.get('plan'))
        if trains(runner) and resumes(runner) and 'epoch' not in (checkpoint.get('meta') or {}):
            raise ValueError(
                'the checkpoint cannot be resumed: it has weights, and nothing of a training; '
                'begin one from them with load_from (mmpsbn train --load-from)'
            )
        if plan is None:
            self._check_shapes(runner, checkpoint, self.plan)
            return
        if self._starts_training(runner):
            plan = _with_new_head(plan, bare_model(runner))
        if is_applied(bare_model(runner), plan):
            self._check_shapes(runner, checkpoint, plan)
        else:
            whole = unwrapped_model(runner, who='a pruned checkpoint')
            with whole as model, ExitStack() as undo:
                undo.callback(apply_plan(model, plan, optimizers_of(runner)))
                for averaged in averaged_models_of(runner):
                    undo.callback(apply_plan(averaged, plan))
                self._check_shapes(runner, checkpoint, plan)
                undo.pop_all()  # it fits
        self.plan = plan

    @staticmethod
    def _starts_training(runner) -> bool:
        return trains(runner) and not resumes(runner)

    def _check_shapes(self, runner, checkpoint: dict, plan: PrunePlan) -> None:
        # MMEngine prints a mismatch and goes on. That is right for a finetuning run
        # that starts with another head, and for nothing else.
        tensors = bare_model(runner).state_dict()
        differing = {
            name: (tuple(value.shape), tuple(tensors[name].shape))
            for name, value in state_dict_of(checkpoint).items()
            if name in tensors and value.shape != tensors[name].shape
        }
        if self._starts_training(runner):
            if not plan and _is_narrower(differing):
                name, (shape, wanted) = next(iter(differing.items()))
                raise ValueError(
                    f'{name} has shape {shape} in the checkpoint and {wanted} in the model, and '
                    'more layers are narrower: it seems to be of a pruned model, without its plan; '
                    f"save it with meta={{'{META_KEY}': {{'plan': plan.to_dict()}}}}, the plan "
                    "being prune_dead_channels' result.plan. To load no more than fits, use "
                    "model.init_cfg=dict(type='Pretrained', checkpoint=...) and not load_from"
                )
            differing = {
                name: (shape, wanted)
                for name, (shape, wanted) in differing.items()
                if any(shape[d : d + 1] != wanted[d : d + 1] for d in plan.kept.get(name, {}))
            }
        for name, (shape, wanted) in differing.items():
            raise ValueError(
                f'{name} has shape {shape} in the checkpoint and {wanted} in the model: '
                'one of them is pruned and the other is not, or pruned otherwise; use the config '
                'the checkpoint was trained with, on a newly built model'
            )


def _is_narrower(differing: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> bool:
    """Whether (shape, wanted) are those of fewer channels: less is written, and less is read.
    Another number of classes changes what is written alone."""
    return {0, 1} <= {
        dim
        for shape, wanted in differing.values()
        for dim, (size, whole) in enumerate(zip(shape, wanted))
        if size < whole
    }


def _with_new_head(plan: PrunePlan, model: nn.Module) -> PrunePlan:
    """The plan for a model whose layers differ in dimensions that the plan leaves whole,
    as the last layer of a head does for another number of classes."""
    tensors = named_tensors(model)
    shapes = {
        name: tuple(
            size if dim in plan.kept[name] else tensors[name].size(dim)
            for dim, size in enumerate(shape)
        )
        if name in tensors and tensors[name].dim() == len(shape)
        else shape
        for name, shape in plan.shapes.items()
    }
    return PrunePlan(shapes, plan.kept)
