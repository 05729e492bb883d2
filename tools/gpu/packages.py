"""What is installed here, and whether a check can use it."""

from importlib.util import find_spec

from .checks import Skip


def mmcv_operations() -> str:
    """For what mmcv's operations are compiled: 'cuda', 'cpu', or 'nothing' where none load."""
    try:
        from mmcv.ops import get_compiling_cuda_version
    except ImportError:  # not built, or built for another torch
        return 'nothing'
    return 'cpu' if get_compiling_cuda_version() == 'not available' else 'cuda'


def needs_detector(*operations: str) -> None:
    """
    Args:
        operations: of which mmcv will do, 'cuda' or 'cpu'.

    Raises:
        Skip: no MMDetection, or mmcv has no such operations.
    """
    if find_spec('mmdet') is None:
        raise Skip('MMDetection is not installed')
    found = mmcv_operations()
    if found not in operations:
        raise Skip(f"it needs mmcv's operations for {' or '.join(operations)}: for {found} here")


def needs_digits() -> None:
    """Raises Skip without scikit-learn, which brings them."""
    if find_spec('sklearn') is None:
        raise Skip('scikit-learn is not installed')
