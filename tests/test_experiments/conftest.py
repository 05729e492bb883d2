import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope='session')
def digits(tmp_path_factory):
    """The pictures of ``smoke``, made once."""
    return tmp_path_factory.mktemp('digits')


@pytest.fixture(scope='session')
def smoke(tmp_path_factory, digits):
    """Name of an experiment -> its folder, run once at ``smoke``."""
    from runs import run

    from mmpsbn.experiments import EXPERIMENTS

    folders = {}

    def folder_of(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name) / 'out'
            run(EXPERIMENTS[name], folders[name], data=digits)
        return folders[name]

    return folder_of
