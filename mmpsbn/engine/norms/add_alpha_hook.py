"""psBN from the weights of a net whose biases are betas."""

from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from ...layers import PostShift, add_alpha
from ..arguments import names_its_arguments
from ..checkpoints.pruned_structure import state_dict_of
from ..runner_parts import bare_model, unwrap

ALPHA_KEY = 'psbn_alpha_added'

# tensors read from checkpoints of runs in which it was done
_shifted = WeakTensorKeyDictionary()


def note_alpha(checkpoint: Any) -> None:
    """Remember the tensors of a checkpoint whose biases have alpha in them: MMEngine's loaders pass
    on the tensors alone, or some of them, or under other names."""
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    if isinstance(meta, Mapping) and meta.get(ALPHA_KEY):
        for tensors in (state_dict_of(checkpoint), checkpoint.get('ema_state_dict') or {}):
            _shifted.update((t, True) for t in tensors.values() if isinstance(t, Tensor))


def mark_alpha_added(model: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Tell the psBN layers that are given such a bias."""
    names = [n for n, t in state_dict.items() if isinstance(t, Tensor) and t in _shifted]
    layers = dict(unwrap(model).named_modules()) if names else {}
    for name in names:
        layer = layers.get(name.removesuffix('.bias'))
        if isinstance(layer, PostShift):
            layer.alpha_added = True


@HOOKS.register_module()
class AddAlphaHook(Hook):
    """b <- b + alpha in every psBN layer when training starts: the loaded biases are betas.

    For weights of an implementation that stores beta, or of a BatchNorm whose function may change.
    Without it a checkpoint's bias is b, and the loaded function stays as it is. It is done once:
    not in a resumed run, nor to biases from a checkpoint of a run with this hook, which carries a
    mark in its meta, whether ``load_from`` or an ``init_cfg`` has read them.

    Raises:
        ValueError: a model without psBN layers, before the first step.
    """

    priority = 'VERY_HIGH'  # before anyone takes a copy of the weights

    @names_its_arguments
    def __init__(self):
        pass

    def before_train(self, runner) -> None:
        if not runner.iter:
            add_alpha(bare_model(runner), strict=False)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        checkpoint['meta'][ALPHA_KEY] = True
