"""A union-find over channel labels: which slices of which tensors must go together.

Labels are plain numbers, so that those of a tensor can be kept, compared and moved as tuples.
"""

from collections.abc import Iterable

# Stands where a position of a tensor belongs to no slice that can be removed.
FIXED = 0
Vector = tuple[int, ...]


class UnionFind:
    """Sets of labels, some of them pinned.

    A label stands for one slice of a parameter or buffer (one position along one of its
    dimensions). Labels that are joined can only be removed together; one that is pinned
    cannot be removed, and keeps the reason.
    """

    def __init__(self):
        self._parent = [FIXED]
        self._pinned: dict[int, str] = {}
        self._joined: set[tuple[Vector, Vector]] = set()

    def new(self, count: int) -> Vector:
        """Fresh labels, each alone."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return tuple(range(first, first + count))

    def find(self, label: int) -> int:
        """The representative of all labels joined with this one."""
        root = label
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[label] != root:
            self._parent[label], label = root, self._parent[label]
        return root

    def join(self, ours: Vector, theirs: Vector, reason: str) -> None:
        """Join two vectors position by position; what meets FIXED is pinned."""
        # A residual stream meets itself in every block, a shared head's weight at every level.
        if ours is theirs or (ours, theirs) in self._joined:
            return
        self._joined.add((ours, theirs))
        for a, b in zip(ours, theirs, strict=True):
            if FIXED in (a, b):
                self.pin((a or b,), reason)
            else:
                self._parent[self.find(a)] = self.find(b)

    def join_all(self, labels: Iterable[int], reason: str) -> None:
        """Join labels into one unit."""
        first, *others = labels
        for other in others:
            self.join((first,), (other,), reason)

    def pin(self, labels: Iterable[int], reason: str) -> None:
        """Say that these cannot be removed. The first reason given stays."""
        for label in labels:
            if label != FIXED:
                self._pinned.setdefault(label, reason)

    def reasons(self) -> dict[int, str]:
        """Representative -> why none of its labels can be removed."""
        reasons: dict[int, str] = {}
        for label, reason in self._pinned.items():
            reasons.setdefault(self.find(label), reason)
        return reasons
