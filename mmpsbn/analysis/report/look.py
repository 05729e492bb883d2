"""From a subject and its checkpoints to what there is to say of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...engine.sparsity.growth import Growth
from ...pruning.sparsity import scale_layers
from .snapshot import Settings, Snapshot, take_snapshot
from .subject import Course, Subject
from .theorem import Drop, drops_between


@dataclass(frozen=True)
class Look:
    """What was seen."""

    title: str  # of the subject
    snapshots: tuple[Snapshot, ...]  # of the checkpoints, in the order of training; one or more
    drops: Mapping[int, list[Drop]]  # checkpoint -> Theorem 1 against what happened until the next
    course: Course | None  # how the subject trains; None where nothing tells
    log_looks_at: tuple[str, float] | None  # see :meth:`.Subject.log_looks_at`


def look_at(subject: Subject, checkpoints: Sequence[str], settings: Settings) -> Look:
    """Load and look at one checkpoint after the other; without any, the subject as it is built.

    Raises:
        ValueError: a checkpoint that does not fit, or an empty data set.
    """
    snapshots, noises, readings, record = [], [], [], None
    at_zero = subject.begins_at_zero()
    names = [Path(path).stem for path in checkpoints] or ['as built']
    if len(set(names)) < len(names):
        names = list(map(str, checkpoints))
    for name, path in zip(names, checkpoints or [None]):
        loaded = subject.load(path)
        scales = scale_layers(loaded.model).items()
        gammas = {name: layer.weight.detach().float().cpu() for name, layer in scales}
        readings.append((gammas, loaded.kept))
        record = loaded.growth or record
        growth = Growth()
        if record:  # what the run itself has written down
            growth.restore(record)
        else:
            growth.begin(at_zero)
        for reading in readings:
            growth.update(*reading)
        not_grown = {t: growth.not_grown(threshold=t) for t in settings.thresholds}
        source = 'record' if record else 'checkpoints' if len(names) > 1 else None
        known = dict(not_grown=not_grown, growth_from=source)
        snapshots.append(take_snapshot(subject, loaded, name=name, settings=settings, **known))
        if len(snapshots) < len(names):
            noises.append(subject.gradient_noise(loaded))
    course = subject.course(loaded, threshold=settings.thresholds[0])
    drops = drops_of(snapshots, noises, course)
    return Look(subject.title, tuple(snapshots), drops, course, subject.log_looks_at())


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
