"""Experiments as the tests run them: in this process."""

from dataclasses import replace
from pathlib import Path

from mmpsbn.experiments import EXPERIMENTS
from mmpsbn.experiments.experiment import Arm
from mmpsbn.experiments.reproduce import reproduce

ROOT = Path(__file__).resolve().parents[2]
CONFIG = 'cifar/resnet20_bn_cifar10_in_memory.py'
TINY = EXPERIMENTS['psbn-lr'].arms['smoke'][0].options


def run(experiment, out, *, data=None, scale='smoke', seed=0, jobs=2, lines=None):
    """``results.json`` and the lines that were said, which are added to ``lines``."""
    lines = [] if lines is None else lines
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


def with_arms(*arms, claims=lambda numbers: {}, **changes):
    """psbn-rounds with other arms, whose table knows no names of arms."""
    experiment = EXPERIMENTS['psbn-rounds']
    return replace(experiment, arms=dict(smoke=arms), claims=claims, **changes)


# of one short training each, the second from the first
PAIR = with_arms(
    Arm('first, 1', CONFIG, TINY), Arm('second', CONFIG, TINY, pretrained='first, 1'), name='pair'
)
