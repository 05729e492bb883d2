"""Pruned checkpoints in runs that do not prune."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..arguments import names_its_arguments
from .pruned_structure import PrunedStructure


@HOOKS.register_module()
class PrunedCheckpointHook(Hook):
    """Loads pruned checkpoints into the dense-built model and keeps saving their plan.

    For testing, and for training on without pruning further; :class:`DemPHook` does
    the same by itself. A checkpoint whose shapes do not fit the model is an error
    where MMEngine prints a line and goes on.

    Attributes:
        structure: what the model was pruned to.
    """

    priority = 'ABOVE_NORMAL'  # before EMAHook copies the checkpoint's weights

    @names_its_arguments
    def __init__(self):
        self.structure = PrunedStructure()

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        self.structure.load(runner, checkpoint)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        self.structure.save(checkpoint)
