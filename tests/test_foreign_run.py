"""``import mmpsbn`` changes nothing in a run that uses nothing of it: no number, no file."""

import re
import subprocess
import sys
from pathlib import Path

import torch
from snapshots import assert_same

SCRIPT = Path(__file__).with_name('foreign_run.py')


def files_of(folder):
    """Relative name, with the time of the run taken out -> path."""
    paths = (path for path in folder.rglob('*') if path.is_file())
    return {re.sub(r'\d{8}_\d{6}', 'TIME', str(p.relative_to(folder))): p for p in paths}


def contents(path):
    """Of a checkpoint all but what tells of time."""

    def timeless(values):
        return {k: v for k, v in values.items() if not k.endswith(('time', 'experiment_name'))}

    checkpoint = torch.load(path, weights_only=False)
    meta, hub = checkpoint.pop('meta'), checkpoint.pop('message_hub')
    scalars = {k: v.data[0].tolist() for k, v in timeless(hub['log_scalars']).items()}
    return [checkpoint, timeless(meta), timeless(hub['runtime_info']), scalars]


def test_the_same_numbers_and_files_with_and_without_the_import(tmp_path):
    found = []
    for how in ('with', 'without'):
        folder = tmp_path / 'run'  # checkpoints hold their own paths
        folder.mkdir()
        command = [sys.executable, str(SCRIPT), how]
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        found.append(files_of(folder.rename(tmp_path / how)))
    ours, theirs = found
    assert ours.keys() == theirs.keys()
    names = [name for name in ours if name.endswith('.pth') and name != 'draws.pth']
    assert len(names) == 4, names  # the last and the best, by epochs and by iterations
    for name in names:
        assert_same(contents(ours[name]), contents(theirs[name]))
    assert_same(torch.load(ours['draws.pth']), torch.load(theirs['draws.pth']))
    for name in ('epochs/last_checkpoint', 'iterations/last_checkpoint'):
        assert ours[name].read_text() == theirs[name].read_text()
