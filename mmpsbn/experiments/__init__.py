"""Floor 6: experiments, the papers' and one of our own, from configs to tables."""

from .catalogue import EXPERIMENTS

__all__ = ['EXPERIMENTS']
