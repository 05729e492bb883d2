"""Trainings with warm restarts: what is measured, changed and kept where a round ends."""
