"""The scalars that a training has logged."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..functional.checks import is_number

PLACE = 'vis_data/scalars.json'  # in <work_dir>/<timestamp>


def read_runs(paths: Sequence[str | Path]) -> dict[str, list[dict]]:
    """Name of a run -> its records, as :func:`read_scalars` returns them.

    Args:
        paths: ``scalars.json``, or a work dir, of which the newest log is read.

    Raises:
        FileNotFoundError: no log there.
        ValueError: a path is given twice, or a log is broken.
    """
    logs = [_log_in(Path(path)) for path in paths]
    if len(set(logs)) < len(logs):
        twice = next(log for log in logs if logs.count(log) > 1)
        raise ValueError(f'{twice} is given twice')
    names = [log.parents[2].name if log.parent.name == 'vis_data' else log.stem for log in logs]
    names = names if len(set(names)) == len(names) else [str(log) for log in logs]
    return {name: read_scalars(log) for name, log in zip(names, logs)}


def _log_in(path: Path) -> Path:
    path = path.resolve()
    if not path.is_dir():
        return path
    logs = sorted(path.glob(f'*/{PLACE}')) or sorted(path.glob(PLACE))
    if not logs:
        raise FileNotFoundError(f'no training log in {path}: a work dir has <timestamp>/{PLACE}')
    return logs[-1]  # a timestamp sorts as time does


def progress(work_dir: Path) -> str:
    """How far a training has come, from its newest log."""
    try:
        (records,) = read_runs([work_dir]).values()
    except FileNotFoundError:
        return 'starting'
    found = (r for r in reversed(records) if 'epoch' in r and 'loss' in r)
    return next((f'epoch {r["epoch"]}, loss {r["loss"]:.3f}' for r in found), 'starting')


def read_scalars(path: str | Path) -> list[dict]:
    """Read MMEngine's ``vis_data/scalars.json`` (one JSON object a line).

    Returns a list of dicts, each with ``iter`` set (1 = first iteration). MMEngine writes training
    records with ``iter``, but validation records with ``step`` alone, which is the *epoch* unless
    ``LoggerHook(log_metric_by_epoch=False)``. A record without ``iter`` gets its ``step`` where
    that is no smaller than the last training iteration in the file (then it cannot be an epoch),
    else that last iteration. A half-written last line (a killed run) is left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line other than the last is not a JSON object.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f'no scalars at {path}; MMEngine writes them to <work_dir>/<timestamp>/{PLACE}'
        )
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    records, last_iter = [], 0
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError
        except ValueError:
            if number == len(lines):
                break
            fault = f'{path}, record {number} is not a JSON object: {line[:60]!r}'
            raise ValueError(fault) from None
        if 'iter' not in record:
            record['iter'] = max(record.get('step', 0), last_iter)
        last_iter = max(last_iter, record['iter'])
        records.append(record)
    return records


def series(records: Sequence[dict], key: str) -> tuple[np.ndarray, np.ndarray]:
    """(iterations, values) of the records that hold a finite number under ``key``.

    Float arrays of one length, in order of iteration.
    """
    pairs = sorted((r['iter'], r[key]) for r in records if is_number(r.get(key)))
    iters, values = np.array(pairs, dtype=float).reshape(-1, 2).T
    return iters, values


def smooth(values: np.ndarray) -> np.ndarray:
    """Centred moving average over about a fifteenth of the record, of the same length; at the ends
    over what is there."""
    reach = max(1, len(values) // 30)
    window = np.ones(2 * reach + 1)
    sums, counts = (np.convolve(x, window)[reach:-reach] for x in (values, np.ones_like(values)))
    return sums / counts
