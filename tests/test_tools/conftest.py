"""The small detector of small_detector.py, written once."""

import pytest
from small_detector import write_small_detector


@pytest.fixture(scope='session')
def small(tmp_path_factory):
    """Folder of ``small.py``, ``dense.pth`` and their data; not to be written into."""
    folder = tmp_path_factory.mktemp('small')
    write_small_detector(folder)
    return folder
