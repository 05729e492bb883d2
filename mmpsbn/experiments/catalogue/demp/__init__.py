"""Maximizing dead neurons, DemP (arXiv 2403.07688)."""
