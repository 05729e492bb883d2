"""A report as files and on the terminal."""

import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...commands.model_files import refuse_to_overwrite
from ..page import render_page
from ..view import Finding
from .contents import report_of
from .snapshot import Settings, take_snapshots
from .subject import Subject

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
    """Write ``report.html``, ``report.json`` and ``layers.csv`` to ``out_dir``, and print the
    summary.

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
    snapshots = take_snapshots(subject, checkpoints, settings)
    content, data = report_of(subject.title, snapshots, prune_command)
    page = render_page('report.html', **content)
    texts = dict(zip(FILES, (page, as_json(data), as_csv(data))))
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as folder:
        for name, text in texts.items():
            Path(folder, name).write_text(text, encoding='utf-8')
        for name in texts:
            os.replace(Path(folder, name), out / name)
    print(as_text(content['title'], content['findings']))
    return [out / name for name in FILES]


def as_text(title: str, findings: Sequence[Finding]) -> str:
    """The summary, for a terminal; a command stands on a line of its own."""
    lines, matter = [title], None
    for finding in findings:
        if finding.matter != matter:
            matter = finding.matter
            lines.append(f'{matter}:')
        lines.append(f'  {finding.words.replace("`", "")}')
        if finding.command is not None:
            lines.append(f'    {finding.command}')
    return '\n'.join(lines)


def as_csv(data: Mapping[str, Any]) -> str:
    """The layers of all checkpoints."""
    rows = [
        dict(checkpoint=checkpoint['name'], **row)
        for checkpoint in data['checkpoints']
        for row in checkpoint['layers']
    ]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, next(iter(rows), ['checkpoint']), lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def as_json(data: Mapping[str, Any]) -> str:
    return json.dumps(_finite(data), indent=1, allow_nan=False) + '\n'


def _finite(value: Any) -> Any:
    """NaN and infinity as null: JSON has no others."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
