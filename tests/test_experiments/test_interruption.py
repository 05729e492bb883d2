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


def stop(stop_signal, out, data):
    """Run the tool, one arm at a time, and stop it while the second waits after its first round."""
    folder = out / 'arms/stopped_seed_0'
    waiting = folder / 'waiting'
    waiting.unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, str(HERE / 'waiting_arm.py'), 'waiting', '--scale', 'smoke']
        + ['--out', str(out), '--data', str(data), '--jobs', '1'],
        stderr=subprocess.PIPE,
        text=True,
        # what a shell starts in the background ignores Ctrl-C, and so do its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env=os.environ | dict(PYTHONPATH=os.pathsep.join([str(HERE), *sys.path])),
    )
    wait_for(lambda: waiting.exists() or process.poll() is not None)
    with pytest.raises(RuntimeError, match=f'another process works in {out}; wait until it ends'):
        run('waiting', WAITING, out, data=data, jobs=1)
    process.send_signal(stop_signal)
    error = process.communicate(timeout=300)[1]
    pid = int(waiting.read_text())
    # what kills the tool outright leaves its arms a moment to notice
    wait_for(lambda: not is_alive(pid))
    assert [row['round'] for row in rounds(folder)] == [1]
    assert not (folder / 'numbers.json').exists()
    return process.returncode, error


def rounds(folder):
    return json.loads((folder / 'rounds.json').read_text())


def test_an_interrupted_experiment_goes_on(tmp_path, digits):
    goes_on = 'interrupted; the same command goes on from the last checkpoints'
    whole, stopped = (tmp_path / f'arms/{name}_seed_0' for name in ('whole', 'stopped'))
    whole.mkdir(parents=True)
    (whole / 'go').touch()
    for stop_signal in (signal.SIGTERM, signal.SIGINT):
        code, error = stop(stop_signal, tmp_path, digits)
        assert code == 1 and error.strip().splitlines()[-1] == goes_on
        assert (stopped / 'seconds.json').exists()
    assert stop(signal.SIGKILL, tmp_path, digits)[0] == -signal.SIGKILL
    finished = (whole / 'numbers.json').stat().st_mtime_ns
    (stopped / 'go').touch()
    results, lines = run('waiting', WAITING, tmp_path, data=digits, jobs=1)
    assert lines[0] == 'whole, seed 0: is trained'
    assert {line.split(',')[0] for line in lines[1:]} == {'stopped'}
    assert (whole / 'numbers.json').stat().st_mtime_ns == finished
    assert [row['round'] for row in rounds(stopped)] == [1, 2]
    # the arms are alike
    arms = results['arms']
    assert [*arms['stopped'].values()] == [*arms['whole'].values()]
    assert 'resumed' in (stopped / 'train.log').read_text()
