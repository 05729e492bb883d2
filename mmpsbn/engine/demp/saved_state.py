"""What DemPHook keeps in a checkpoint beside the plan, checked on its way in."""

from collections.abc import Mapping
from typing import Any

from ...functional.checks import is_number, shown


def check_saved_state(saved: Mapping[str, Any]) -> None:
    """Raises ValueError, naming the entry, for what DemPHook cannot have saved."""
    _check(saved, dict(noise_seed=(_is_size, 'an int >= 0'), pruner=(_is_dict, 'a dict')))
    _check(
        saved['pruner'],
        dict(
            dense=(_is_dense, 'empty or positive counts of channels and macs'),
            removed=(_is_size, 'an int >= 0'),
            channel_dims=(_is_dims, 'names of tensors, each with 0 or 1'),
            positions=(_is_positions, 'names of weights, each with a number >= 0'),
            counted_size=(_is_sizes, 'a list of ints > 0'),
            windows=(
                _is_windows,
                'a list of windows: layers, each with samples and lists of floats low and high',
            ),
            samples=(_is_size, 'an int >= 0'),
            held=(_is_names, 'a list of names of groups'),
            training_only=(_is_texts, 'names of layers, each with a text'),
            budget=(_is_budget, 'None or scale, met, and the costs dense and now'),
        ),
    )


def _check(data: Mapping, expected: dict) -> None:
    for key, (fits, what) in expected.items():
        if key not in data or not fits(data[key]):
            raise ValueError(
                f'the checkpoint cannot be resumed: {key} in its pruning state must be {what}, '
                f'got {shown(data.get(key))}'
            )


def _is_dict(value) -> bool:
    return isinstance(value, Mapping)


def _is_size(value) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_dense(value) -> bool:
    if value == {}:  # saved before the first iteration
        return True
    return (
        _is_dict(value)
        and value.keys() == {'channels', 'macs'}
        and all(_is_size(count) and count > 0 for count in value.values())
    )


def _is_positions(value) -> bool:
    return (
        _is_dict(value)
        and _is_names(list(value))
        and all(name.endswith('weight') for name in value)
        and all(is_number(count) and count >= 0 for count in value.values())
    )


def _is_dims(value) -> bool:
    return (
        _is_dict(value)
        and _is_names(list(value))
        and all(type(dim) is int and dim in (0, 1) for dim in value.values())
    )


def _is_sizes(value) -> bool:
    return isinstance(value, list) and all(_is_size(size) and size > 0 for size in value)


def _is_names(value) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_texts(value) -> bool:
    return _is_dict(value) and _is_names([*value, *value.values()])


def _is_windows(value) -> bool:
    """Layer name -> what it saw, of the model and of its averages."""
    return isinstance(value, list) and all(
        _is_dict(window) and _is_names(list(window)) and all(map(_is_seen, window.values()))
        for window in value
    )


def _is_seen(value) -> bool:
    """Samples, and (min, max) of each input channel; NaN where one was seen."""
    if not (_is_dict(value) and value.keys() == {'samples', 'low', 'high'}):
        return False
    low, high = value['low'], value['high']
    if not (_is_size(value['samples']) and _is_floats(low) and _is_floats(high)):
        return False
    return len(low) == len(high) and not any(a > b for a, b in zip(low, high))


def _is_floats(value) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(type(x) is float for x in value)


def _is_budget(value) -> bool:
    if value is None:  # a run without one
        return True
    return (
        _is_dict(value)
        and value.keys() == {'scale', 'met', 'dense', 'now'}
        and is_number(value['scale'])
        and value['scale'] > 0
        and type(value['met']) is bool
        and all(
            _is_dict(costs) and all(is_number(cost) and cost > 0 for cost in costs.values())
            for costs in (value['dense'], value['now'])
        )
        and value['dense'].keys() == value['now'].keys()
    )
