"""The sparsity report: what a model's checkpoints hold, on one page, as CSV and as JSON."""

from .snapshot import Settings
from .write import write_report

__all__ = ['Settings', 'write_report']
