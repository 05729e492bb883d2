"""Experiments as the tests run them: in this process."""

from dataclasses import replace
from pathlib import Path

from mmpsbn.experiments import EXPERIMENTS
from mmpsbn.experiments.reproduce import reproduce

ROOT = Path(__file__).resolve().parents[2]


def run(experiment, out, *, data=None, scale='smoke', seed=0, jobs=2):
    """``results.json`` and the lines that were said."""
    lines = []
    results = reproduce(
        experiment,
        scale=scale,
        out=str(out),
        data=None if data is None else str(data),
        seed=seed,
        jobs=jobs,
        configs=ROOT / 'configs',
        say=lines.append,
    )
    return results, lines


def with_arms(arms, name='psbn-rounds'):
    """An experiment with other arms, whose table and verdict know no names of arms."""
    return replace(EXPERIMENTS[name], arms=lambda scale: arms, judge=lambda numbers: [])
