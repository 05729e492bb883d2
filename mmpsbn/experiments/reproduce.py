"""From the name of an experiment to its table, picture and numbers."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

from mmengine.config import Config

from .experiment import Arm, Experiment
from .folder import ExperimentFolder, machine
from .scales import DEFAULT_DATA, data_options
from .training import train_arms


def reproduce(
    experiment: Experiment,
    *,
    scale: str,
    out: str,
    data: str | None,
    seed: int,
    jobs: int,
    configs: Path,
    train_script: Path,
    say: Callable[[str], None],
) -> dict:
    """Train what is not trained yet, then write ``table.md``, ``plot.png`` and ``results.json``.

    Args:
        scale: ``'smoke'``, ``'small'`` or ``'paper'``.
        out: folder, see :class:`.folder.ExperimentFolder`.
        data: folder of the data; None for the default of the scale.
        seed: of all arms.
        configs: the folder of configs.
        jobs, train_script, say: see :func:`.training.train_arms`.

    Returns:
        What ``results.json`` holds.

    Raises:
        ValueError: ``out`` was begun with other settings.
        FileNotFoundError: no data.
        RuntimeError: an arm failed.
    """
    folder = ExperimentFolder(out)
    if data is None:
        data = str(folder.path / 'data') if scale == 'smoke' else DEFAULT_DATA[scale]
    options = data_options(scale, data) | {'randomness': dict(seed=seed)}
    arms = list(experiment.arms(scale))
    built = {arm: _config_of(arm, configs, options) for arm in arms}
    settings = dict(experiment=experiment.name, scale=scale, seed=seed)
    folder.claim(settings, built)
    train_arms(folder, arms, train_script=train_script, jobs=jobs, say=say)
    numbers = {arm.name: experiment.read(folder.arm(arm)) for arm in arms}
    table, verdict = experiment.tabulate(numbers), experiment.judge(numbers)
    results = dict(
        settings,
        shows=experiment.shows,
        claim=experiment.claim,
        verdict=verdict,
        machine=machine(),
        seconds={arm.name: round(folder.seconds(arm), 1) for arm in arms},
        arms=numbers,
    )
    folder.write('table.md', table.markdown() + '\n')
    folder.write('results.json', json.dumps(results, indent=1) + '\n')
    experiment.draw(numbers, folder.path / 'plot.png')
    return results


def _config_of(arm: Arm, configs: Path, options: dict) -> Config:
    config = Config.fromfile(str(configs / arm.config))
    for changes in (options, arm.options):
        config.merge_from_dict(deepcopy(dict(changes)))  # it takes _delete_ out of what it is given
    return config
