"""From the name of an experiment to its table, picture and numbers."""

import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .experiment import Arm, Experiment
from .folder import ExperimentFolder
from .measure import final_checkpoint
from .pictures import draw
from .scales import data_settings, set_data
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
    arms = list(experiment.arms(scale))
    settings = data_settings(scale, data, default_folder=folder.path / 'data')
    built: dict[Arm, Config] = {}
    for arm in arms:
        built[arm] = _config_of(arm, configs, seed)
        set_data(built[arm], settings)
        if arm.pretrained is not None:
            checkpoint = final_checkpoint(folder.arm(arm.pretrained), built[arm.pretrained])
            built[arm].model.backbone.init_cfg = dict(
                type='Pretrained', checkpoint=str(checkpoint), prefix='backbone.'
            )
    what = dict(experiment=experiment.name, scale=scale, seed=seed)
    with folder.locked():
        folder.claim(what, built)
        train_arms(folder, arms, read=experiment.read, jobs=jobs, say=say)
        return _write_results(folder, experiment, arms, what)


def _write_results(
    folder: ExperimentFolder, experiment: Experiment, arms: Sequence[Arm], what: Mapping[str, Any]
) -> dict:
    numbers = {arm.name: folder.numbers(arm) for arm in arms}
    verdict = experiment.judge(numbers)
    results = dict(
        what,
        shows=experiment.shows,
        claim=experiment.claim,
        verdict=[asdict(finding) for finding in verdict],
        machines={arm.name: folder.machine(arm) for arm in arms},
        seconds={arm.name: round(folder.seconds(arm), 1) for arm in arms},
        arms=numbers,
    )
    table = experiment.tabulate(numbers).markdown()
    findings = '\n'.join(f'- {finding}' for finding in verdict)
    folder.write('table.md', f'{table}\n\n{findings}\n')
    folder.write('results.json', json.dumps(results, indent=1) + '\n')
    draw(experiment.panels(numbers)).savefig(folder.path / 'plot.png')
    return results


def _config_of(arm: Arm, configs: Path, seed: int) -> Config:
    config = deepcopy(_read(str(configs / arm.config)))
    changes: Mapping = dict(arm.options, randomness=dict(seed=seed))
    config.merge_from_dict(deepcopy(changes))  # it takes _delete_ out of what it is given
    return config


@cache
def _read(path: str) -> Config:
    return Config.fromfile(path)
