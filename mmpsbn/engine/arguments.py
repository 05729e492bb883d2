"""What a hook is given: a bad value or a mistyped name is refused in one sentence."""

import difflib
import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields

from ..functional.checks import is_count, is_number


def no_such_argument(owner: str, unknown: Sequence[str], allowed: Sequence[str]) -> str:
    """The sentence that refuses names which ``owner`` does not take."""
    meant = [m for name in unknown for m in difflib.get_close_matches(str(name), allowed, n=1)]
    hint = f' (did you mean {" and ".join(map(repr, meant))}?)' if meant else ''
    return f'{owner} has no {list(unknown)}{hint}; allowed are {list(allowed)}'


def names_its_arguments(init: Callable) -> Callable:
    """Of an ``__init__``: Python's error for an unknown keyword does not say which there are.

    Raises:
        TypeError: when the ``__init__`` is called with a keyword that it does not have.
    """
    allowed = list(inspect.signature(init).parameters)[1:]

    @functools.wraps(init)
    def checked(self, *args, **kwargs):
        unknown = [name for name in kwargs if name not in allowed]
        if unknown:
            raise TypeError(no_such_argument(type(self).__name__, unknown, allowed))
        init(self, *args, **kwargs)

    return checked


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def require_one_of(name: str, value, allowed: Sequence) -> None:
    require(value in allowed, f'{name} must be one of {allowed}, got {value!r}')


def require_count(name: str, value) -> None:
    require(is_count(value), f'{name} must be an int >= 1, got {value!r}')


def require_not_negative(name: str, value) -> None:
    require(is_number(value) and value >= 0, f'{name} must be a finite number >= 0, got {value!r}')


def require_window(name: str, begin, end, *, last: float = 1) -> None:
    require(
        is_number(begin) and is_number(end) and 0 <= begin < end <= last,
        f'{name} begin and end must be fractions of training, 0 <= begin < end <= {last}, got '
        f'{begin!r} and {end!r}',
    )


def require_bool(name: str, value) -> None:
    require(isinstance(value, bool), f'{name} must be True or False, got {value!r}')


def build(settings: type, name: str, values: dict | None):
    """``settings(**values)``, with errors that name the group and what it may hold."""
    allowed = [field.name for field in fields(settings)]
    values = {} if values is None else values
    require(isinstance(values, dict), f'{name} must be a dict of {allowed}, got {values!r}')
    unknown = sorted(set(values) - set(allowed) - {'_scope_'})
    require(not unknown, no_such_argument(name, unknown, allowed))
    return settings(**{key: value for key, value in values.items() if key in allowed})
