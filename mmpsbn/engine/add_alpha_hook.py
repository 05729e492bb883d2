"""psBN from the weights of a net whose biases are betas."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..layers import add_alpha
from .arguments import names_its_arguments
from .models import bare_model

_META_KEY = 'psbn_alpha_added'


@HOOKS.register_module()
class AddAlphaHook(Hook):
    """b <- b + alpha in every psBN layer when training starts: the loaded biases are betas.

    For weights of an implementation that stores beta, or of a BatchNorm whose function may change.
    Without it a checkpoint's bias is b, and the loaded function stays as it is. It is done once:
    not in a resumed run, nor to weights from a checkpoint of a run in which it was done, which
    carry a mark in their meta.

    Raises:
        ValueError: a model without psBN layers, before the first step.
    """

    priority = 'VERY_HIGH'  # before anyone takes a copy of the weights

    @names_its_arguments
    def __init__(self):
        self._done = False

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        self._done = bool((checkpoint.get('meta') or {}).get(_META_KEY))

    def before_train(self, runner) -> None:
        if self._done or runner.iter:
            return
        add_alpha(bare_model(runner))
        self._done = True

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        checkpoint['meta'][_META_KEY] = self._done
