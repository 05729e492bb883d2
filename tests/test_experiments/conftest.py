import sys
from functools import partial
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope='session')
def digits(tmp_path_factory):
    """The pictures of ``smoke``, made once."""
    return tmp_path_factory.mktemp('digits')


@pytest.fixture(scope='session')
def pair(tmp_path_factory, digits):
    """The folder of ``trained.PAIR``, run once with two seeds."""
    from trained import PAIR, run

    folder = tmp_path_factory.mktemp('pair') / 'out'
    run('pair', PAIR, folder, data=digits, seeds=(0, 1), jobs=1)
    return folder


@pytest.fixture
def folder_of(tmp_path, digits):
    """``arms.as_if_trained`` in the test's folder."""
    from arms import as_if_trained

    return partial(as_if_trained, tmp_path, digits)
