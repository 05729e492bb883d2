"""Models whose layers have other widths than their config can say."""

from collections.abc import Mapping, Sequence

from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..pruning import PrunePlan, apply_plan
from ..pruning.plan import named_tensors
from ..upstream import check_before_loading


# The name is that of what is built, as configs say it; exported configs carry it, so it stays.
@MODELS.register_module(name='PrunedModel')
def build_pruned_model(
    dense_type: str,
    shapes: Mapping[str, Sequence[int]],
    fused: Mapping[str, str] | None = None,
    **dense,
) -> nn.Module:
    """Build a dense model and cut it to size; a plain model of the dense type results.

    For configs that ``mmpsbn export`` writes. Which channels stayed is in the weights,
    so only sizes matter here; loading weights that are not of these sizes is an error.

    Args:
        dense_type: what was ``type`` in the dense model's config; ``dense`` is the rest.
        shapes: parameter or buffer -> its shape in the pruned model, where it differs.
        fused: convolution -> the BatchNorm folded into it, which becomes an identity.

    Raises:
        ValueError: a tensor that the dense model lacks, or has smaller than asked for.
    """
    model = MODELS.build(dict(type=dense_type, **dense))
    apply_plan(model, _first_channels(model, shapes))
    fuse_norms(model, fused or {})
    check_before_loading(model, _check_before_loading)
    return model


def fuse_norms(model: nn.Module, pairs: Mapping[str, str]) -> None:
    """Fold BatchNorms in eval mode into the convolutions (name -> name of its BatchNorm)
    that they alone read, in place. An identity takes the place of each."""
    for conv_name, norm_name in pairs.items():
        conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
        training = conv.training
        fused = fuse_conv_bn_eval(conv.eval(), norm.eval())  # torch fuses in eval mode only
        _set(model, conv_name, fused.train(training))
        _set(model, norm_name, nn.Identity())


def _set(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition('.')
    setattr(model.get_submodule(parent), child, module)


def check_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless the state dict has every tensor of the model, in its shape.

    MMEngine prints a mismatch and loads the rest. ``num_batches_tracked`` may be missing, as from
    checkpoints of PyTorch before 0.4.1: norm layers keep theirs.
    """
    for name, tensor in model.state_dict().items():
        wanted = tuple(tensor.shape)
        if name not in state_dict:
            if name.endswith('num_batches_tracked'):
                continue
            raise ValueError(
                f'{name} is not in the checkpoint, and the model has it with shape {wanted}: use '
                'the config that belongs to the checkpoint'
            )
        shape = tuple(state_dict[name].shape)
        if shape != wanted:
            raise ValueError(
                f'{name} has shape {shape} in the checkpoint and {wanted} in the model: use the '
                'config that belongs to the checkpoint'
            )


def _check_before_loading(model, state_dict, prefix, *_) -> None:
    check_state_dict(
        model, {k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)}
    )


def _first_channels(model: nn.Module, shapes: Mapping[str, Sequence[int]]) -> PrunePlan:
    """The plan that keeps the first channels of each dimension."""
    tensors = named_tensors(model)
    before, kept = {}, {}
    for name, shape in shapes.items():
        dense = tuple(tensors[name].shape) if name in tensors else None
        if (
            dense is None
            or len(dense) != len(shape)
            or any(not 0 < new <= old for new, old in zip(shape, dense))
        ):
            raise ValueError(
                f'PrunedModel cannot give {name} the shape {tuple(shape)}: '
                + (f'the dense model has {dense}' if dense else 'the dense model lacks it')
            )
        before[name] = dense
        kept[name] = {
            dim: tuple(range(new)) for dim, (new, old) in enumerate(zip(shape, dense)) if new < old
        }
    return PrunePlan(before, kept)
