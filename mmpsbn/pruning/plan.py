"""PrunePlan: which slices of which tensors stay, as plain data.

A checkpoint carries it, and may come from a stranger: :meth:`PrunePlan.from_dict` believes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..functional.checks import short_repr
from .graph import ChannelGroup

_FORMAT_VERSION = 1


@dataclass(frozen=True)
class PrunePlan:
    """For each tensor of a model its shape before and the kept indices per dimension.

    Attributes:
        shapes: name of a parameter or buffer -> its shape before the plan.
        kept: the same names -> dimension -> kept indices, ascending.
    """

    shapes: dict[str, tuple[int, ...]]
    kept: dict[str, dict[int, tuple[int, ...]]]

    def __bool__(self) -> bool:
        return bool(self.kept)

    def shape_after(self, name: str) -> tuple[int, ...]:
        kept = self.kept[name]
        return tuple(len(kept.get(dim, range(size))) for dim, size in enumerate(self.shapes[name]))

    def shapes_after(self) -> dict[str, tuple[int, ...]]:
        return {name: self.shape_after(name) for name in self.kept}

    def to_dict(self) -> dict[str, Any]:
        """Nested dicts and lists of ints and strings; survives JSON."""
        tensors = {
            name: dict(
                shape=list(self.shapes[name]),
                kept={str(dim): list(index) for dim, index in dims.items()},
            )
            for name, dims in self.kept.items()
        }
        return dict(version=_FORMAT_VERSION, tensors=tensors)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> 'PrunePlan':
        """Inverse of :meth:`to_dict`.

        Raises:
            ValueError: another version, or indices that are not ascending ints within
                the shape; names the tensor.
        """
        version = data.get('version') if isinstance(data, Mapping) else None
        if type(version) is not int or version != _FORMAT_VERSION:
            raise ValueError(
                f'prune plan version must be {_FORMAT_VERSION}, got {short_repr(version)}'
            )
        shapes, kept = {}, {}
        for name, entry in _mapping(data, 'tensors', 'prune plan').items():
            if not isinstance(name, str):
                raise ValueError(
                    f'prune plan: a tensor is named {short_repr(name)}, not by a string'
                )
            where = f'prune plan, {name}'
            shape = entry.get('shape') if isinstance(entry, Mapping) else None
            # no tensor is larger; keeps what a broken plan claims within Python's reach
            if not (
                _is_ints(shape) and len(shape) <= 16 and all(0 <= size < 2**63 for size in shape)
            ):
                raise ValueError(
                    f'{where}: shape must be a list of ints >= 0, got {short_repr(shape)}'
                )
            shapes[name], kept[name] = tuple(shape), {}
            # as strings: JSON knows no other keys
            for dim, index in _mapping(entry, 'kept', where).items():
                if dim not in map(str, range(len(shape))):
                    raise ValueError(
                        f'{where}, dimension {short_repr(dim)}: not a dimension of shape '
                        f'{tuple(shape)}'
                    )
                _check_index(f'{where}, dimension {dim}', shape[int(dim)], index)
                kept[name][int(dim)] = tuple(index)
        return cls(shapes, kept)


def _mapping(data: Mapping, key: str, where: str) -> Mapping:
    if not isinstance(data.get(key), Mapping):
        raise ValueError(f'{where}: {key} must be a dict, got {short_repr(data.get(key))}')
    return data[key]


def _is_ints(values: Any) -> bool:
    return (
        isinstance(values, (list, tuple))
        and len(values) > 0
        and all(type(value) is int for value in values)
    )


def _check_index(where: str, size: int, index: Any) -> None:
    if not _is_ints(index):
        raise ValueError(f'{where}: kept indices must be a non-empty list of ints')
    if index[0] < 0 or index[-1] >= size or any(a >= b for a, b in zip(index, index[1:])):
        raise ValueError(f'{where}: kept indices must be ascending, unique and in [0, {size})')


def compose_plans(first: PrunePlan, then: PrunePlan) -> PrunePlan:
    """The one plan that does what ``first`` and after it ``then`` do.

    Raises:
        ValueError: ``then`` does not start from what ``first`` leaves.
    """
    shapes, kept = dict(first.shapes), dict(first.kept)
    for name, dims in then.kept.items():
        if name not in kept:  # the first plan leaves it whole
            shapes[name], kept[name] = then.shapes[name], dims
            continue
        if then.shapes[name] != first.shape_after(name):
            raise ValueError(
                f'{name}: the second plan starts from shape {then.shapes[name]}, the '
                f'first leaves {first.shape_after(name)}'
            )
        merged = dict(kept[name])
        for dim, index in dims.items():
            # positions of what the first leaves, as positions of the dense tensor
            before = merged.get(dim, range(shapes[name][dim]))
            merged[dim] = tuple(before[i] for i in index)
        kept[name] = merged
    return PrunePlan(shapes, kept)


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What a plan can name: parameters and buffers, a shared one under its first name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def plan_from_keep_masks(
    model: nn.Module, groups: Mapping[str, ChannelGroup], keep_masks: Mapping[str, Tensor]
) -> PrunePlan:
    """Turn keep masks of channel groups into slices of the model's tensors.

    Args:
        groups: by name, traced from ``model`` as it is now.
        keep_masks: group name -> keep mask, shape (channels,), bool, True = keep.
            Groups that are left out, or kept whole, stay as they are.

    Raises:
        ValueError: a mask of the wrong length or without a single True.
    """
    removed: dict[tuple[str, int], set] = {}
    for name, keep_mask in keep_masks.items():
        group = groups[name]
        size, kept_count = len(keep_mask), int(keep_mask.sum())
        if size != group.channels or not kept_count:
            raise ValueError(
                f'{name}: a keep mask needs {group.channels} values and at '
                f'least one True, got {size} with {kept_count} True'
            )
        if kept_count == size:
            continue
        for member in group.members:
            gone = member.positions(~keep_mask)
            if len(gone) == member.size:
                # the mask keeps some, but of a layer that writes only part of the group none
                raise ValueError(f'{name}: the keep mask leaves {member.layer} without channels')
            # a tensor may be in several groups (what reads a concatenation): one slice for all
            for place in member.tensors:
                removed.setdefault(place, set()).update(gone)
    tensors = named_tensors(model)
    shapes, kept = {}, {}
    for (name, dim), gone in removed.items():
        shapes[name] = tuple(tensors[name].shape)
        index = tuple(i for i in range(shapes[name][dim]) if i not in gone)
        kept.setdefault(name, {})[dim] = index
    return PrunePlan(shapes, kept)
