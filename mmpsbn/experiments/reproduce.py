"""From the name of an experiment to its table, picture and numbers."""

import itertools
import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache

from mmengine.config import Config

from ..commands.launch import configs_folder
from .experiment import Arm, Experiment
from .folder import ExperimentFolder, write
from .pictures import draw
from .tables import Measured, markdown, over_seeds
from .trained import final_checkpoint
from .training import train_runs


def reproduce(
    name: str,
    experiment: Experiment,
    *,
    scale: str,
    out: str,
    data: str | None,
    seeds: Sequence[int],
    jobs: int,
    say: Callable[[str], None],
) -> dict:
    """Train what is not trained yet, then write ``table.md``, ``plot.png`` and ``results.json``.

    Args:
        name: of the experiment.
        scale: ``'smoke'``, ``'small'`` or ``'paper'``.
        out: folder, see :class:`.folder.ExperimentFolder`.
        data: folder of the data; None for the default of the scale.
        seeds: of each arm; the table has their mean and standard deviation.
        jobs, say: see :func:`.training.train_runs`.

    Returns:
        What ``results.json`` holds.

    Raises:
        ValueError: ``out`` was begun with other settings.
        FileNotFoundError: no data.
        RuntimeError: a run failed, or another process works in ``out``.
    """
    folder = ExperimentFolder(out)
    arms = {arm.name: arm for arm in experiment.arms(scale)}
    settings = experiment.data.settings(scale, data, default_folder=folder.path / 'data')
    plain = {arm.name: config_of(arm) for arm in arms.values()}
    for config in plain.values():
        experiment.data.write(config, settings)
    starts: dict[str, str | None] = {}
    built: dict[str, Config] = {}
    for seed, arm in itertools.product(seeds, arms.values()):
        run = arm.run(seed)
        built[run] = config = deepcopy(plain[arm.name])
        config.randomness = dict(seed=0 if arm.once else seed)
        starts[run] = start = arms[arm.pretrained].run(seed) if arm.pretrained else None
        if start:
            checkpoint = final_checkpoint(folder.run(start), built[start])
            _start_from(config, str(checkpoint), whole=arm.whole)
    what = dict(experiment=name, scale=scale, measures=experiment.measures)
    same = what | dict(
        arms={arm: config.to_dict() for arm, config in plain.items()},
        starts={arm.name: arm.pretrained for arm in arms.values()},
    )
    with folder.locked():
        folder.claim(same, built)
        train_runs(folder, starts, measures=experiment.measures, jobs=jobs, say=say)
        return _write_results(experiment, folder, what, list(arms.values()), seeds)


def config_of(arm: Arm) -> Config:
    """The config of an arm, but for the data, the seed and what it starts from."""
    config = deepcopy(_read(arm.config))
    config.merge_from_dict(deepcopy(dict(arm.options)))  # it takes _delete_ out of what it is given
    return config


def _start_from(config: Config, checkpoint: str, *, whole: bool) -> None:
    if whole:
        config.load_from = checkpoint
    else:
        config.model.backbone.init_cfg = dict(
            type='Pretrained', checkpoint=checkpoint, prefix='backbone.'
        )


@cache
def _read(name: str) -> Config:
    return Config.fromfile(str(configs_folder('mmpsbn') / name))


def _write_results(
    experiment: Experiment,
    folder: ExperimentFolder,
    what: dict,
    arms: Sequence[Arm],
    seeds: Sequence[int],
) -> dict:
    runs = {arm.name: list(dict.fromkeys(map(arm.run, seeds))) for arm in arms}
    read = {name: [folder.numbers(run) for run in own] for name, own in runs.items()}
    names = [run for own in runs.values() for run in own]
    results = what | dict(
        seeds=list(seeds),
        shows=experiment.shows,
        claim=experiment.claim,
        machines={name: folder.machine(name) for name in names},
        seconds={name: round(folder.seconds(name), 1) for name in names},
        arms={name: dict(zip(runs[name], numbers)) for name, numbers in read.items()},
    )
    measured: dict[str, Measured] = {}
    for arm in arms:
        measured[arm.name] = Measured(over_seeds(read[arm.name]), measured.get(arm.pretrained))
    table = markdown(*experiment.table.lines(measured))
    write(folder.path / 'table.md', f'{table}\n\n{_about_seeds(seeds)}\n')
    write(folder.path / 'results.json', json.dumps(results, indent=1) + '\n')
    draw(experiment.panels, measured).savefig(folder.path / 'plot.png')
    return results


def _about_seeds(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return f'Seed {seeds[0]}, n = 1.'
    words = ', '.join(map(str, seeds))
    return f'Mean ± standard deviation of the sample, n = {len(seeds)} (seeds {words}).'
