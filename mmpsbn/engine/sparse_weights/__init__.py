"""Masks on single weights, held while a model trains."""
