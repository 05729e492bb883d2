"""Checks of arguments that come out of a config, where anything may stand."""

import math


def is_number(value) -> bool:
    """A finite int or float, and not a bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value) -> bool:
    """An int >= 1, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
