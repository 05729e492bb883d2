"""A model whose frozen weights are kept as the seed they were drawn from.

"Rather than needing to store all of the parameters in the network, we could store the random
seed necessary to generate the network's weights and the trained BatchNorm parameters" (Frankle
et al. section 6).
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import asdict

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..functional.frozen import digest
from .trained_parts import TrainedParts

_FORMAT = 1


def draw_model(model_cfg: Mapping, seed: int) -> nn.Module:
    """Build a model and initialise it, on the CPU, from torch's random numbers of ``seed``.

    The same config and seed give the same weights, whatever was drawn before; what is drawn
    after does not change either.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU's alone
        model = MODELS.build(copy.deepcopy(dict(model_cfg)))
        model.init_weights()
    return model


def frozen_values(model: nn.Module, frozen: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    """Parameter -> those of its values that are not trained."""
    parameters = dict(model.named_parameters())
    return {
        name: parameters[name] if mask is None else parameters[name][~mask]
        for name, mask in frozen.items()
    }


def pack_seed_checkpoint(
    model: nn.Module, *, parts: TrainedParts, seed: int, frozen: Mapping[str, Tensor | None]
) -> dict:
    """The seed, the trained parameters and the buffers (running statistics) of a model.

    Its frozen weights must be those of :func:`draw_model`; the file holds a checksum of them.

    Args:
        frozen: ``parts.frozen(model, seed)``.

    Returns:
        Plain types and one flat tensor for each dtype, for ``torch.save``.
    """
    values: dict[str, list[Tensor]] = {}
    for tensor, mask in _stored(model, frozen):
        value = tensor.detach() if mask is None else tensor.detach()[mask]
        values.setdefault(str(tensor.dtype), []).append(value.flatten().cpu())
    return dict(
        meta=dict(
            format=_FORMAT,
            seed=seed,
            parts=asdict(parts),
            checksum=digest(frozen_values(model, frozen).values()),
            torch_version=str(torch.__version__),
        ),
        values={dtype: torch.cat(tensors) for dtype, tensors in values.items()},
    )


@torch.no_grad()
def unpack_seed_checkpoint(checkpoint: Mapping, model_cfg: Mapping) -> nn.Module:
    """The model whose :func:`pack_seed_checkpoint` it is, to the bit.

    Raises:
        ValueError: no such checkpoint, or one of another model; this torch draws other
            weights from the seed.
    """
    meta = checkpoint.get('meta', {}) if isinstance(checkpoint, Mapping) else {}
    if meta.get('format') != _FORMAT or 'checksum' not in meta:
        raise ValueError(
            'this is no checkpoint of a seed and trained values; FreezeHook(seed=...) writes '
            'from_seed.pth into the work folder'
        )
    model = draw_model(model_cfg, meta['seed'])
    parts = TrainedParts(**meta['parts'])
    frozen = parts.frozen(model, meta['seed'])
    if digest(frozen_values(model, frozen).values()) != meta['checksum']:
        raise ValueError(
            f'the weights that torch {torch.__version__} draws from seed {meta["seed"]} are not '
            f'those of the checkpoint, written by torch {meta["torch_version"]}: use the config '
            'of that run, and its torch'
        )
    stored = list(_stored(model, frozen))
    sizes: dict[str, list[int]] = {}
    for tensor, mask in stored:
        size = tensor.numel() if mask is None else int(mask.sum())
        sizes.setdefault(str(tensor.dtype), []).append(size)
    have = {dtype: value.numel() for dtype, value in checkpoint['values'].items()}
    want = {dtype: sum(of_dtype) for dtype, of_dtype in sizes.items()}
    if have != want:
        raise ValueError(
            f'the checkpoint has {have} trained values and the model {want}: use the config of '
            'the run that wrote it'
        )
    values = {dtype: iter(checkpoint['values'][dtype].split(sizes[dtype])) for dtype in sizes}
    for tensor, mask in stored:
        value = next(values[str(tensor.dtype)])
        if mask is None:
            tensor.copy_(value.view_as(tensor))
        else:
            tensor[mask] = value
    return model


def _stored(
    model: nn.Module, frozen: Mapping[str, Tensor | None]
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """What the file holds, in its order: trained tensors, those of which a part is trained with
    the mask of it, and the buffers of the state dict."""
    for name, parameter in model.named_parameters():
        if name not in frozen:
            yield parameter, None
        elif frozen[name] is not None:
            yield parameter, frozen[name]
    keys = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if name in keys:
            yield buffer, None
