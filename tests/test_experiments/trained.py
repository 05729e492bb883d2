"""Experiments as the tests run them: in this process."""

from dataclasses import replace
from pathlib import Path

from mmpsbn.experiments import EXPERIMENTS
from mmpsbn.experiments.experiment import Arm
from mmpsbn.experiments.reproduce import reproduce

ROOT = Path(__file__).resolve().parents[2]
CONFIG = 'cifar/resnet20_bn_cifar10_in_memory.py'
TINY = EXPERIMENTS['psbn-lr'].arms('smoke')[0].options


def run(name, experiment, out, *, data=None, scale='smoke', seeds=(0,), jobs=2, lines=None):
    """``results.json`` and the lines that were said, which are added to ``lines``."""
    lines = [] if lines is None else lines
    results = reproduce(
        name,
        experiment,
        scale=scale,
        out=str(out),
        data=None if data is None else str(data),
        seeds=seeds,
        jobs=jobs,
        say=lines.append,
    )
    return results, lines


def with_arms(*arms):
    """psbn-rounds with other arms."""
    return replace(EXPERIMENTS['psbn-rounds'], arms=lambda scale: arms)


# of one short training each, the second from the first, which all seeds share
PAIR = with_arms(
    Arm('first, 1', CONFIG, TINY, once=True), Arm('second', CONFIG, TINY, pretrained='first, 1')
)
