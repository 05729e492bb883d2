"""The embedded detection set: handwritten digits on photographs, made from installed packages."""

from .digits import CLASSES, write_digits_dataset

__all__ = ['CLASSES', 'write_digits_dataset']
