"""Neuron collapse and psBN (arXiv 2001.11216)."""
