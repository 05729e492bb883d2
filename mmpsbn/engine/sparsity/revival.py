"""Which dead channels come back from one look at activations to the next."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ...functional.statistics import dead_overlap


class Revival:
    """The course of the dead channels over the looks so far (DemP, appendix C)."""

    def __init__(self):
        self._last: Mapping[str, Tensor] = {}
        self._ever: dict[str, Tensor] = {}

    def update(self, dead: Mapping[str, Tensor]) -> dict[str, float]:
        """Take in a look; ``revived``, channels that came back since the last one, and
        ``dead_overlap`` of the dead with all that ever were. Of layers seen before, and not pruned
        since; empty where there are none.

        Args:
            dead: layer -> shape (channels,), bool.
        """
        known = [
            name
            for name, mask in dead.items()
            if name in self._last and len(self._last[name]) == len(mask)
        ]
        values = {}
        if known:
            last, ever, now = (
                torch.cat([masks[name] for name in known])
                for masks in (self._last, self._ever, dead)
            )
            values['revived'] = int((last & ~now).sum())
            values['dead_overlap'] = dead_overlap(ever, now)
        self._ever = {
            name: mask | self._ever[name] if name in known else mask for name, mask in dead.items()
        }
        self._last = dead
        return values
