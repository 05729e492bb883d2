"""From a subject and its checkpoints to the files of a report."""

import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ...commands.model_files import refuse_to_overwrite
from ...engine.sparsity.growth import Growth
from ...version import __version__
from .course import Course
from .numbers import layer_rows, small_count, totals
from .page import Section, glossary, layer_table, render_page, worst_table
from .pictures import pictures_of
from .sections import course_section, drop_section, rounds_section
from .snapshot import Settings, Snapshot, take_snapshot
from .subject import Subject
from .theorem import drops_between
from .words import advice, collapsed_words, cost_words, dead_words, score_words, share

FILES = ('report.html', 'report.json', 'layers.csv')


def write_report(
    subject: Subject,
    checkpoints: Sequence[str],
    settings: Settings,
    *,
    out_dir: str,
    force: bool,
    prune_command: str | None,
) -> list[Path]:
    """Write ``report.html``, ``report.json`` and ``layers.csv`` to ``out_dir``.

    The files appear together, when all is known. The words, the pictures and the table by layer
    are of the last checkpoint; CSV and JSON have all.

    Args:
        checkpoints: paths, in the order of training; none for the subject as it is built.
        prune_command: what cuts out dead channels of the subject's last checkpoint.

    Raises:
        FileExistsError: there is such a file, and not ``force``.
        ValueError: a checkpoint that does not fit, or an empty data set.
    """
    out = Path(out_dir)
    above = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not above.is_dir():
        raise FileExistsError(f'{str(above)!r} is a file; give a folder as --out')
    if not os.access(above, os.W_OK):
        raise PermissionError(f'{str(above)!r} cannot be written to; give another --out')
    if not force:
        refuse_to_overwrite(*(str(out / name) for name in FILES))
    snapshots, noises, course = _look(subject, checkpoints, settings)
    found = [totals(snapshot, settings) for snapshot in snapshots]
    rows = [layer_rows(snapshot, settings) for snapshot in snapshots]
    drops = _drops(snapshots, noises, course)
    sections = []
    if len(snapshots) > 1:
        sections += [rounds_section(snapshots, found, settings), drop_section(drops)]
    if course is not None:
        sections.append(course_section(course, settings.thresholds[0]))
    page = _page(
        subject.title, snapshots[-1], found[-1], rows[-1], settings, sections, prune_command
    )
    report = dict(
        title=subject.title,
        version=__version__,
        settings=asdict(settings),
        checkpoints=[_checkpoint(*parts) for parts in zip(snapshots, found, rows)],
        drops=[
            dict(before=before, after=after, layers=[asdict(drop) for drop in layers])
            for before, after, layers in drops
        ],
        forecast=None
        if course is None
        else dict(sentence=course.sentence, alternatives=[asdict(a) for a in course.alternatives]),
    )
    return _put(out, dict(zip(FILES, (page, _json(report), _csv(snapshots, rows)))))


def _look(
    subject: Subject, checkpoints: Sequence[str], settings: Settings
) -> tuple[list[Snapshot], list, Course | None]:
    """Snapshots, the gradient noise at all but the last, and the course of the run."""
    names = _names(checkpoints)
    snapshots, noises, record = [], [], None
    at_zero = subject.begins_at_zero()
    for number, name in enumerate(names, start=1):
        loaded = subject.load(checkpoints[number - 1] if checkpoints else None)
        snapshot = take_snapshot(
            loaded.model,
            name=name,
            example=subject.example(loaded.model),
            trace=subject.trace,
            forward_fn=subject.forward_fn,
            batches=subject.batches(loaded.model) if subject.has_data else None,
            score=subject.score if subject.has_data else None,
            settings=settings,
            kept=loaded.kept,
            step=loaded.step,
        )
        record = loaded.growth or record
        growth = _growth([*snapshots, snapshot], at_zero, record)
        snapshot = replace(
            snapshot,
            not_grown={t: growth.not_grown(threshold=t) for t in settings.thresholds},
            growth_from='record' if record else 'checkpoints' if len(names) > 1 else None,
        )
        snapshots.append(snapshot)
        if number < len(names):
            noises.append(subject.gradient_noise(loaded))
    return snapshots, noises, subject.course(loaded, threshold=settings.thresholds[0])


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


def _checkpoint(snapshot: Snapshot, found: dict[str, Any], rows: list[dict]) -> dict[str, Any]:
    """A snapshot as JSON has it."""
    return dict(
        name=snapshot.name,
        step=snapshot.step,
        samples=snapshot.samples,
        untraced=snapshot.untraced,
        input_shape=snapshot.input_shape,
        totals=found,
        scores=snapshot.scores,
        clamped_scores={f'{t:g}': s for t, s in snapshot.clamped_scores.items()},
        layers=rows,
    )


def _names(checkpoints: Sequence[str]) -> list[str]:
    """File names, or where these are not all different whole paths."""
    if not checkpoints:
        return ['as built']
    stems = [Path(path).stem for path in checkpoints]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in checkpoints]


def _drops(snapshots: Sequence[Snapshot], noises: Sequence, course: Course | None) -> list:
    """(checkpoint, the next one, drops by layer), where steps and learning rates are known."""
    if course is None or course.lrs is None or course.optimizer != 'SGD':
        return []
    found = []
    for before, after, noise in zip(snapshots, snapshots[1:], noises):
        if not noise or before.step is None or after.step is None or after.step <= before.step:
            continue
        if after.step > len(course.lrs):  # trained for longer than the config says
            continue
        lrs = course.lrs[before.step : after.step]
        drops = drops_between(before, after, noise, lrs=lrs, momentum=course.momentum)
        if drops:
            found.append((before.name, after.name, drops))
    return found


def _page(
    title: str,
    snapshot: Snapshot,
    found: dict[str, Any],
    rows: list[dict[str, Any]],
    settings: Settings,
    sections: list[Section],
    prune_command: str | None,
) -> str:
    table = layer_table(rows, settings)
    summary = [
        ('Collapsed', collapsed_words(found, snapshot, settings)),
        ('Dead', dead_words(found, snapshot, settings)),
        ('Cost', cost_words(found, snapshot, settings)),
        ('Does it matter?', score_words(found, snapshot, settings)),
        ('What to do', advice(found, snapshot, settings, prune_command)),
    ]
    looked = f'{snapshot.samples:,} samples' if snapshot.samples else 'its weights alone'
    return render_page(
        title=title if title == snapshot.name else f'{title}: {snapshot.name}',
        subtitle=f'Sparsity report of {looked}, by mmpsbn {__version__}',
        summary=[(head, _unbroken(words)) for head, words in summary if words],
        tiles=_tiles(found, snapshot, settings),
        pictures=pictures_of(snapshot, settings),
        layers=table,
        worst=worst_table(rows, table, settings),
        sections=sections,
        glossary=glossary(settings, bool(snapshot.samples)),
    )


def _unbroken(words: str) -> str:
    """Without line breaks within |γ| and between a number and its unit."""
    joiner, space = '\u2060', '\u00a0'
    words = words.replace('|γ|', f'|{joiner}γ{joiner}|')
    return words.replace(' M ', f'{space}M ').replace(' %', f'{space}%')


def _tiles(found: dict[str, Any], snapshot: Snapshot, settings: Settings) -> list[tuple[str, str]]:
    """The numbers at a glance."""
    tiles = [
        (f'{found["layers"]:,}', 'layers with channels'),
        (f'{found["channels"]:,}', 'channels'),
    ]
    for threshold in settings.thresholds[:2]:
        if found['scaled_channels']:
            count = small_count(snapshot, threshold)
            tiles.append((f'{count:,}', f'filters with |γ| < {threshold:g}'))
    for key, label in (
        ('not_grown', 'not grown yet'),
        ('perhaps_not_grown', 'perhaps never grown'),
    ):
        if found[key]:
            tiles.append((f'{found[key]:,}', f'of |γ| < {settings.thresholds[0]:g} {label}'))
    if found['dead'] is not None:
        tiles.append((f'{found["dead"]:,}', 'dead channels'))
    if found['macs']:
        tiles.append((share(found['macs_at_stake'], found['macs']), 'of FLOPs at stake'))
    tiles += [(f'{value:.4g}', metric) for metric, value in list(snapshot.scores.items())[:1]]
    return tiles


def _csv(snapshots: Sequence[Snapshot], rows: Sequence[list[dict[str, Any]]]) -> str:
    buffer = io.StringIO()
    columns = ['checkpoint', *next((r[0] for r in rows if r), {})]
    writer = csv.DictWriter(buffer, columns, lineterminator='\n')
    writer.writeheader()
    for snapshot, layers in zip(snapshots, rows):
        writer.writerows(dict(row, checkpoint=snapshot.name) for row in layers)
    return buffer.getvalue()


def _json(report: dict[str, Any]) -> str:
    return json.dumps(_finite(report), indent=1, allow_nan=False) + '\n'


def _finite(value: Any) -> Any:
    """NaN and infinity as null: JSON has no others."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _put(out: Path, texts: dict[str, str]) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as folder:
        for name, text in texts.items():
            Path(folder, name).write_text(text, encoding='utf-8')
        for name in texts:
            os.replace(Path(folder, name), out / name)
    return [out / name for name in texts]
