"""A model out of a config and a checkpoint, pruned or not, and back into files."""

import io
import os.path as osp
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import CheckpointLoader, load_state_dict
from torch import nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from ..engine.checkpoints.pruned_structure import saved_by
from ..engine.files import AtomicLocalBackend
from ..engine.norms.add_alpha_hook import ALPHA_KEY
from ..engine.openmmlab import model_cfg_of
from ..engine.sparsity.growth import GROWTH_KEY
from ..models import check_state_dict, unpack_seed_checkpoint
from ..pruning import PrunePlan, apply_plan
from ..pruning.surgery import is_applied

# Class names and the like, and what our hooks have written down.
_MARKS = ('dataset_meta', ALPHA_KEY, GROWTH_KEY)
# What torch raises for a text, an empty or half a file.
_UNREADABLE = (pickle.UnpicklingError, EOFError, LookupError, OSError, RuntimeError)


@dataclass
class LoadedModel:
    """A model with the weights of a checkpoint; None of what the checkpoint does not say."""

    model: nn.Module  # in eval mode, on the CPU
    plan: PrunePlan  # what the checkpoint had pruned; the model has that structure
    marks: dict  # of the checkpoint's meta what a checkpoint made of it must say too, _MARKS
    unused: tuple[str, ...] = ()  # tensors of the checkpoint that the model has no place for

    @property
    def growth(self) -> dict | None:
        """What SparsityHook wrote down of layers whose gamma began at 0."""
        return self.marks.get(GROWTH_KEY)


def load_model(cfg: Config, checkpoint_path: str) -> LoadedModel:
    """Build the config's model and load a checkpoint, after replaying its prune plan.

    Raises:
        ValueError: plan, weights and model do not fit; names the first tensor.
    """
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    model = revert_sync_batchnorm(MODELS.build(model_cfg_of(cfg)))
    with _readable(checkpoint_path):
        checkpoint = CheckpointLoader.load_checkpoint(checkpoint_path, map_location='cpu')
    state_dict = state_dict_in(checkpoint, checkpoint_path)
    meta = checkpoint.get('meta', {})
    saved = saved_by(checkpoint)
    plan = PrunePlan({}, {}) if saved is None else PrunePlan.from_dict(saved.get('plan'))
    if not is_applied(model, plan):
        apply_plan(model, plan)
    check_state_dict(model, state_dict)
    load_state_dict(model, state_dict)
    return LoadedModel(
        model.eval(),
        plan,
        {key: meta[key] for key in _MARKS if meta.get(key) is not None},
        unused=tuple(state_dict.keys() - model.state_dict().keys()),
    )


@contextmanager
def _readable(path: str) -> Iterator[None]:
    """What torch says of a file that is no checkpoint, in one sentence."""
    try:
        yield
    except FileNotFoundError:
        raise
    except _UNREADABLE as error:
        what = next(iter(str(error).splitlines()), 'it is empty or cut off')
        raise ValueError(f'{path!r} is not a checkpoint that can be read: {what}') from error


def read_plain(path: str) -> Any:
    """What a file holds that is of tensors and plain types; a ValueError says what is wrong."""
    with _readable(path):
        return torch.load(path, map_location='cpu', weights_only=True)


def state_dict_in(checkpoint: Any, path: str) -> dict:
    """A checkpoint's weights by name, without the prefix of a DDP wrapper."""
    state = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise ValueError(f'{path!r} holds a {type(checkpoint).__name__}, not a state dict')
    consume_prefix_in_state_dict_if_present(state, 'module.')
    return state


def load_seed_checkpoint(cfg: Config, checkpoint_path: str) -> nn.Module:
    """The config's model out of what FreezeHook kept as a seed and trained values.

    Returns:
        The model, in eval mode, on the CPU.

    Raises:
        ValueError: the file is no such checkpoint, or not of this config's model; this torch
            draws other weights from its seed.
    """
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    return unpack_seed_checkpoint(read_plain(checkpoint_path), model_cfg_of(cfg)).eval()


def file_name(path: str) -> str:
    """``dir/name.ext`` -> ``name``."""
    return osp.splitext(osp.basename(path))[0]


def refuse_to_overwrite(*paths: str) -> None:
    """Raises FileExistsError for the first path that exists."""
    for path in paths:
        if osp.exists(path):
            raise FileExistsError(
                f'{path!r} exists; give another --out, or --force to overwrite it'
            )


def save_weights(model: nn.Module, path: str, **meta) -> None:
    """Write a checkpoint of weights and plain ``meta`` that loads with ``weights_only``.

    Entries of ``meta`` that are None are left out. The file is at all times the old one
    or the new one, whole.
    """
    buffer = io.BytesIO()
    meta = {key: value for key, value in meta.items() if value is not None}
    torch.save(dict(meta=meta, state_dict=model.cpu().state_dict()), buffer)
    AtomicLocalBackend().put(buffer.getvalue(), path)
