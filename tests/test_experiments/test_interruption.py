"""An experiment that is stopped goes on where it was, whatever stopped it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from trained import run
from waiting_arm import WAITING

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow


def wait_for(condition):
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError('waited for five minutes in vain')


def is_alive(pid):
    status = Path(f'/proc/{pid}/stat')
    return status.exists() and status.read_text().rpartition(')')[2].split()[0] != 'Z'


def stop_in(arm, stop_signal, out, data):
    """Run the tool, one arm at a time, and stop it while ``arm`` waits after its first round."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / 'waiting_arm.py'), 'waiting', '--scale', 'smoke']
        + ['--out', str(out), '--data', str(data), '--jobs', '1'],
        stderr=subprocess.PIPE,
        text=True,
        # what a shell starts in the background ignores Ctrl-C, and so do its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env=os.environ | dict(PYTHONPATH=os.pathsep.join([str(HERE), *sys.path])),
    )
    waiting = out / 'arms' / f'{arm}_seed_0' / 'waiting'
    wait_for(lambda: waiting.exists() or process.poll() is not None)
    with pytest.raises(RuntimeError, match=f'another process works in {out}; wait until it ends'):
        run('waiting', WAITING, out, data=data, jobs=1)
    process.send_signal(stop_signal)
    error = process.communicate(timeout=300)[1]
    pid = int(waiting.read_text())
    # what kills the tool outright leaves its arms a moment to notice
    wait_for(lambda: not is_alive(pid))
    (out / 'arms' / f'{arm}_seed_0' / 'go').touch()
    return process.returncode, error


def rounds(out, arm):
    return json.loads((out / 'arms' / f'{arm}_seed_0' / 'rounds.json').read_text())


def test_an_interrupted_experiment_goes_on(tmp_path, digits):
    goes_on = 'interrupted; the same command goes on from the last checkpoints'
    for arm, stop_signal in (('A', signal.SIGTERM), ('B', signal.SIGINT), ('C', signal.SIGKILL)):
        code, error = stop_in(arm, stop_signal, tmp_path, digits)
        assert [row['round'] for row in rounds(tmp_path, arm)] == [1]
        assert not (tmp_path / 'arms' / f'{arm}_seed_0' / 'numbers.json').exists()
        if stop_signal == signal.SIGKILL:
            assert code == -signal.SIGKILL
        else:
            assert code == 1 and error.strip().splitlines()[-1] == goes_on
            assert (tmp_path / 'arms' / f'{arm}_seed_0' / 'seconds.json').exists()
    numbers = {arm: tmp_path / f'arms/{arm}_seed_0/numbers.json' for arm in 'AB'}
    finished = {arm: path.stat().st_mtime_ns for arm, path in numbers.items()}
    (tmp_path / 'arms/D_seed_0/go').touch()
    results, lines = run('waiting', WAITING, tmp_path, data=digits, jobs=1)
    assert lines[:2] == ['A, seed 0: is trained', 'B, seed 0: is trained']
    assert {line.split(',')[0] for line in lines[2:]} == {'C', 'D'}
    for arm, written in finished.items():
        assert numbers[arm].stat().st_mtime_ns == written
    for arm in 'ABCD':
        assert [row['round'] for row in rounds(tmp_path, arm)] == [1, 2]
        # the arms are alike, and D was not interrupted
        assert [*results['arms'][arm].values()] == [*results['arms']['D'].values()]
    assert 'resumed' in (tmp_path / 'arms/C_seed_0/train.log').read_text()
