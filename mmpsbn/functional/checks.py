"""Checks of what comes out of a config or a file, where anything may stand."""

import math
import reprlib


def is_number(value) -> bool:
    """A finite int or float, and not a bool; no int that is too large for a float."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def is_count(value) -> bool:
    """An int >= 1, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def short_repr(value) -> str:
    """What a message shows of data that nobody has checked, whose repr could be endless."""
    try:
        return reprlib.repr(value)[:100]
    except ValueError:  # Python prints no int of more than 4300 digits
        return f'a {type(value).__name__} too long to show'
