"""What is noted of each round of a training with warm restarts."""

import json
import math
import os
from collections.abc import Mapping
from numbers import Number
from typing import Any

from ..files import AtomicLocalBackend


class RoundsTable:
    """Rows by round, written whole after each change: the file is the old table or the new.

    Args:
        path: of a JSON file, a list of objects in the order of the rounds. NaN and infinity,
            which JSON lacks, are null.
    """

    def __init__(self, path: str):
        self.path = path
        self.rows: list[dict[str, Any]] = []

    def read(self, last_iter: int) -> None:
        """The rows of rounds that end at ``last_iter`` or before; what a run wrote beyond the
        checkpoint it goes on from is trained again.

        Raises:
            ValueError: the file is no such table.
        """
        self.rows = []
        if not os.path.exists(self.path):
            return
        try:
            with open(self.path) as file:
                rows = json.load(file)
            self.rows = [dict(row) for row in rows if row['iter'] <= last_iter]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f'{self.path} is not a table of rounds ({error}); move it away, and the run '
                'begins a new one'
            ) from error

    def row(self, end_iter: int) -> dict[str, Any] | None:
        """Of the round that ended there."""
        return next((row for row in self.rows if row['iter'] == end_iter), None)

    def record(self, values: Mapping[str, Any]) -> None:
        """Add values to the row of ``values['iter']``, a new one where there is none."""
        row = self.row(values['iter'])
        if row is None:
            row = {}
            self.rows.append(row)
        row.update({key: _json_value(value) for key, value in values.items()})

    def write(self) -> None:
        AtomicLocalBackend().put(json.dumps(self.rows, indent=1).encode(), self.path)


def _json_value(value):
    """Plain types: numbers of numpy and torch as their Python ones."""
    if isinstance(value, Mapping):
        return {key: _json_value(item) for key, item in value.items()}
    if hasattr(value, 'item'):
        value = value.item()
    return None if isinstance(value, Number) and not math.isfinite(value) else value
