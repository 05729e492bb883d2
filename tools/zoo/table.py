"""Rows as JSON in a work folder, and as a table in markdown."""

import json
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .measure import TOLERANCE, Row

_PACKAGES = dict(
    torch=('torch',),
    mmengine=('onedl-mmengine', 'mmengine'),
    mmcv=('onedl-mmcv', 'mmcv'),
    mmdet=('onedl-mmdetection', 'mmdet'),
    mmpretrain=('onedl-mmpretrain', 'mmpretrain'),
)
_HEADER = """\
# Pruning every family of the zoo

{passing} of {total} families pass: {by_package}.

One config of every family in mmdet's zoo, and of every backbone family in mmpretrain's. The model
gets random weights, in float64. About a quarter of the channels of a third of its layers are
killed at random (a scale of 0 with a bias of 0 or below, or a filter of zeros), in some residual
streams at every writer. `prune_dead_channels` has to find and remove them. A family passes if
planted channels were removed and every output stays within {tolerance:.0e} of its maximum.

| column | meaning |
|---|---|
| what ran | the largest part of the model that runs in float64 on the CPU |
| planted | (layer, channel) pairs that were killed |
| certain | those that for certain no reader sees: between two layers, or in a whole stream |
| removed | how many of the planted, and of the certain, are gone |
| all removed | channels that the engine removed, those that died by chance among them |
| error | max abs(after - before) / max abs(before) over all outputs |
| left whole | why groups of channels were not pruned, the most frequent reasons first |

Made by `{command}`. Seed {seed}; {versions}.

| family | config | what ran | planted | certain | removed | all removed | params left | error \
| result | left whole |
|---|---|---|---:|---:|---:|---:|---:|---:|---|---|
"""


def save_row(row: Row, folder: Path) -> None:
    """One file a family; another process may be reading."""
    folder.mkdir(parents=True, exist_ok=True)
    path = _path(row.family, folder)
    part = path.with_suffix('.part')
    part.write_text(json.dumps(asdict(row), indent=1))
    part.replace(path)


def load_row(family: str, folder: Path) -> Row | None:
    """The family's saved row, if it has one."""
    path = _path(family, folder)
    return Row(**json.loads(path.read_text())) if path.exists() else None


def _path(family: str, folder: Path) -> Path:
    return folder / f'{family.replace("/", ".")}.json'


def versions() -> str:
    """Python and the packages the zoo is made of."""
    found = [f'Python {platform.python_version()}']
    for name, distributions in _PACKAGES.items():
        for distribution in distributions:
            try:
                found.append(f'{name} {version(distribution)}')
                break
            except PackageNotFoundError:
                pass
    return ', '.join(found)


def markdown(rows: list[Row], *, command: str, seed: int) -> str:
    """The table with its heading."""
    packages = sorted({row.family.partition('/')[0] for row in rows})
    counts = []
    for package in packages:
        own = [row for row in rows if row.family.startswith(package + '/')]
        counts.append(f'{sum(row.passes for row in own)} of {len(own)} in {package}')
    header = _HEADER.format(
        passing=sum(row.passes for row in rows),
        total=len(rows),
        by_package=', '.join(counts),
        tolerance=TOLERANCE,
        command=command,
        seed=seed,
        versions=versions(),
    )
    return header + ''.join(_line(row) + '\n' for row in rows)


def _line(row: Row) -> str:
    cells = [
        row.family,
        row.config.rpartition('/')[2],
        row.what_ran,
        row.planted,
        row.certain,
        f'{row.removed}, {row.certain_removed}',
        row.all_removed,
        f'{row.params_left:.0%}',
        '' if row.error is None else f'{row.error:.0e}',
        row.status,
        '; '.join(f'{reason} ({n})' for reason, n in list(row.reasons.items())[:3]),
    ]
    return '| ' + ' | '.join(str(cell).replace('|', '\\|') for cell in cells) + ' |'
