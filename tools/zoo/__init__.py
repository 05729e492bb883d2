"""The parts of ``prune_zoo.py``."""
