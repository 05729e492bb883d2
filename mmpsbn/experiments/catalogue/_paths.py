"""What the experiments share that follow the parameters of a layer over the epochs."""

from typing import Any

from ..measure import label_of
from ..pictures import over_steps
from ..tables import ArmTable


def by_epoch(corner: str, *paths: str) -> dict[str, Any]:
    """Table, of the last epoch, and panels of percentiles over the channels."""
    ends = [f'{path}[p{at}]' for path in paths for at in (5, 50, 95)]
    return dict(
        table=ArmTable(corner, {label_of(end)[0]: f'{{{end}:.3f}}' for end in ends}),
        panels=[over_steps('epoch', end) for end in ends if 'p50' not in end],
    )
