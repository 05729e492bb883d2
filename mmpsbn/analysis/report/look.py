"""From a subject and its checkpoints to what there is to say of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...engine.sparsity.growth import Growth
from .snapshot import Settings, Snapshot, take_snapshot
from .subject import Course, Subject
from .theorem import Drop, drops_between


@dataclass(frozen=True)
class Look:
    """What was seen.

    Attributes:
        title: of the subject.
        snapshots: of the checkpoints, in the order of training; one or more.
        drops: number of a checkpoint -> Theorem 1 against what happened until the next one.
        course: how the subject trains; None where nothing tells.
        log_looks_at: see :meth:`.Subject.log_looks_at`.
    """

    title: str
    snapshots: tuple[Snapshot, ...]
    drops: Mapping[int, list[Drop]]
    course: Course | None
    log_looks_at: tuple[str, float] | None


def look_at(subject: Subject, checkpoints: Sequence[str], settings: Settings) -> Look:
    """Load and look at one checkpoint after the other; without any, the subject as it is built.

    Raises:
        ValueError: a checkpoint that does not fit, or an empty data set.
    """
    snapshots, noises, record = [], [], None
    at_zero = subject.begins_at_zero()
    names = _names(checkpoints)
    for name, path in zip(names, checkpoints or [None]):
        loaded = subject.load(path)
        snapshots.append(take_snapshot(subject, loaded, name=name, settings=settings))
        record = loaded.growth or record
        growth = _growth(snapshots, at_zero, record)
        snapshots[-1] = replace(
            snapshots[-1],
            not_grown={t: growth.not_grown(threshold=t) for t in settings.thresholds},
            growth_from='record' if record else 'checkpoints' if len(names) > 1 else None,
        )
        if len(snapshots) < len(names):
            noises.append(subject.gradient_noise(loaded))
    course = subject.course(loaded, threshold=settings.thresholds[0])
    return Look(
        subject.title,
        tuple(snapshots),
        drops_of(snapshots, noises, course),
        course,
        subject.log_looks_at(),
    )


def _names(checkpoints: Sequence[str]) -> list[str]:
    """File names, or where these are not all different whole paths."""
    if not checkpoints:
        return ['as built']
    stems = [Path(path).stem for path in checkpoints]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in checkpoints]


def _growth(
    snapshots: Sequence[Snapshot],
    at_zero: Mapping[str, int],
    record: Mapping[str, list[float]] | None,
) -> Growth:
    """The course up to the last of some snapshots, with what the run itself has written down."""
    growth = Growth()
    if record:
        growth.restore(record)
    else:
        growth.begin(at_zero)
    for snapshot in snapshots:
        gammas = {n: c.gamma for n, c in snapshot.layers.items() if c.gamma is not None}
        growth.update(gammas, snapshot.kept)
    return growth


def drops_of(
    snapshots: Sequence[Snapshot], noises: Sequence, course: Course | None
) -> dict[int, list[Drop]]:
    """Where steps and learning rates are known."""
    if course is None or course.lrs is None:
        return {}
    found = {}
    for k, (before, after, noise) in enumerate(zip(snapshots, snapshots[1:], noises)):
        if not noise or before.step is None or after.step is None or after.step <= before.step:
            continue
        if after.step > len(course.lrs):  # trained for longer than the config says
            continue
        drops = drops_between(before, after, noise, lrs=course.lrs[before.step : after.step])
        if drops:
            found[k] = drops
    return found
