"""From the name of an experiment to its table, picture and numbers."""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from functools import cache
from pathlib import Path

from mmengine.config import Config

from .experiment import Arm, Experiment
from .folder import ExperimentFolder, read_json, write
from .measure import final_checkpoint
from .measured import Measured
from .pictures import draw
from .tables import markdown
from .training import train_arms
from .verdicts import sentence


def reproduce(
    experiment: Experiment,
    *,
    scale: str,
    out: str,
    data: str | None,
    seed: int,
    jobs: int,
    configs: Path,
    say: Callable[[str], None],
) -> dict:
    """Train what is not trained yet, then write ``table.md``, ``plot.png`` and ``results.json``.

    Args:
        scale: ``'smoke'``, ``'small'`` or ``'paper'``.
        out: folder, see :class:`.folder.ExperimentFolder`.
        data: folder of the data; None for the default of the scale.
        seed: of all arms.
        configs: the folder of configs.
        jobs, say: see :func:`.training.train_arms`.

    Returns:
        What ``results.json`` holds.

    Raises:
        ValueError: ``out`` was begun with other settings.
        FileNotFoundError: no data.
        RuntimeError: an arm failed, or another process works in ``out``.
    """
    folder = ExperimentFolder(out)
    arms = experiment.arms[scale]
    settings = experiment.data.settings(scale, data, default_folder=folder.path / 'data')
    built: dict[str, Config] = {}
    for arm in arms:
        built[arm.name] = config = config_of(arm, configs, seed)
        experiment.data.write(config, settings)
        if arm.pretrained:
            checkpoint = final_checkpoint(folder.arm(arm.pretrained), built[arm.pretrained])
            if arm.whole:
                config.load_from = str(checkpoint)
            else:
                config.model.backbone.init_cfg = dict(
                    type='Pretrained', checkpoint=str(checkpoint), prefix='backbone.'
                )
    what = dict(experiment=experiment.name, scale=scale, seed=seed)
    with folder.locked():
        folder.claim(what, built)
        train_arms(folder, arms, read=experiment.read, jobs=jobs, say=say)
        return _write_results(experiment, folder, what, list(built))


def config_of(arm: Arm, configs: Path, seed: int) -> Config:
    """The config of an arm, but for the data."""
    config = deepcopy(_read(str(configs / arm.config)))
    changes = dict(arm.options, randomness=dict(seed=seed + arm.seed))
    config.merge_from_dict(deepcopy(changes))  # it takes _delete_ out of what it is given
    return config


@cache
def _read(path: str) -> Config:
    return Config.fromfile(path)


def _write_results(
    experiment: Experiment, folder: ExperimentFolder, what: dict, names: list[str]
) -> dict:
    read = {name: read_json(folder.arm(name) / 'numbers.json') for name in names}
    numbers = {name: Measured(name, values) for name, values in read.items()}
    verdicts = experiment.claims(numbers)
    results = dict(
        what,
        shows=experiment.shows,
        claim=experiment.claim,
        verdict=[dict(clause=clause, **asdict(of)) for clause, of in verdicts.items()],
        machines={name: read_json(folder.arm(name) / 'machine.json') for name in names},
        seconds={name: round(folder.seconds(name), 1) for name in names},
        arms=read,
    )
    table = markdown(*experiment.table.lines(numbers))
    findings = '\n'.join(f'- {sentence(clause, of)}' for clause, of in verdicts.items())
    write(folder.path / 'table.md', f'{table}\n\n{findings}\n')
    write(folder.path / 'results.json', json.dumps(results, indent=1) + '\n')
    draw(experiment.panels, numbers).savefig(folder.path / 'plot.png')
    return results
