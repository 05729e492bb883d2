"""tools/gpu_check.py, tried on the CPU: what it finds, what it says, and when it stops."""

import importlib
import json
import subprocess
import sys
import time

import pytest
import torch
from small_detector import ROOT

WITHOUT_OPERATIONS = """
import runpy, sys
sys.modules['mmcv._ext'] = None  # as where mmcv was built without them
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


@pytest.fixture(scope='module')
def gpu_check():
    """What the script calls, of its package ``gpu``."""
    before = list(sys.path)
    sys.path[:0] = [str(ROOT / 'tools'), str(ROOT / 'tools/benchmarks')]
    yield importlib.import_module('gpu.command')
    sys.path[:] = before


@pytest.fixture
def checks(gpu_check):
    return importlib.import_module('gpu.checks')


@pytest.fixture
def run(gpu_check, checks, tmp_path, monkeypatch):
    """Run the script over these functions; returns its JSON file, its page and how it ended."""

    def run(*functions, minutes=1.0):
        part = checks.Part()
        for function in functions:
            part.check(quick=0.5, whole=5)(function)
        monkeypatch.setattr(gpu_check, 'PARTS', dict(part=part))
        ended = None
        try:
            command = f'--out {tmp_path} --device cpu --quick --minutes {minutes}'
            gpu_check.main(command.split())
        except (SystemExit, KeyboardInterrupt) as error:
            ended = error
        record = json.loads((tmp_path / 'gpu_check.json').read_text())
        return record, (tmp_path / 'gpu_check.md').read_text(), ended

    return run


@pytest.fixture
def setup(checks, tmp_path):
    return checks.Setup(
        device='cpu', quick=True, seed=0, folder=tmp_path, data=None, deadline=time.monotonic() + 99
    )


def test_each_check_is_reported_and_a_failure_is_no_end(run, checks):
    def fine(setup):
        """What it shows."""
        return checks.Found('a sentence', ['what', 'how much'], [['a|b', 1.5]])

    def not_here(setup):
        """..."""
        raise checks.Skip('no GPU')

    def wrong_thing(setup):
        """..."""
        raise ValueError('far off')

    record, page, ended = run(wrong_thing, fine, not_here)
    assert ended.code == 1 and record['ended']
    assert record['seed'] == 0 and record['torch'] == torch.__version__
    assert record['summary'] == dict(passed=1, failed=1, skipped=1)
    found = {o['name']: (o['verdict'], o['found']['text']) for o in record['parts']['part']}
    assert found == {
        'wrong thing': ('failed', 'ValueError: far off'),
        'fine': ('passed', 'a sentence'),
        'not here': ('skipped', 'no GPU'),
    }
    assert "raise ValueError('far off')" in record['parts']['part'][0]['trace']
    assert '| a\\|b | 1.5 |' in page and '1 passed, 1 failed, 1 skipped' in page
    assert 'has not ended' not in page


def test_what_does_not_fit_into_the_time_is_skipped_or_stopped(run, checks):
    def endless(setup):
        """..."""
        while True:
            time.sleep(0.01)

    def late(setup):
        """..."""
        return checks.Found('too late')

    record, *_ = run(endless, late, minutes=0.02)
    endless, late = record['parts']['part']
    assert endless['verdict'] == 'failed' and 'not done after 1 s' in endless['found']['text']
    assert late['verdict'] == 'skipped'
    assert late['found']['text'] == 'it needs about 0.5 s, and 0 s are left'


def test_a_run_that_is_cut_off_leaves_what_it_has_done(run, checks):
    def done(setup):
        """..."""
        return checks.Found('all is well')

    def cut_off(setup):
        """..."""
        raise KeyboardInterrupt

    record, page, ended = run(done, cut_off)
    assert isinstance(ended, KeyboardInterrupt) and not record['ended']
    assert [o['name'] for o in record['parts']['part']] == ['done']
    assert 'all is well' in page and 'The run has not ended' in page


def test_a_device_that_is_wrong_is_found(gpu_check, setup):
    correct = importlib.import_module('gpu.correct')
    build, hooks = correct._resnet18(setup), [correct.demp()]

    def moved(by, dead=()):
        def prepare(model):
            with torch.no_grad():
                model.net.conv1.weight[0, 0, 0, 0] += by
                model.net.blocks[0].bn1.weight[1] += by
            return model

        return prepare

    with pytest.raises(AssertionError, match='other channels went than on the CPU'):
        correct._as_on_the_cpu(setup, build, hooks, prepare=moved(10.0))
    with pytest.raises(AssertionError, match='is .* from the CPU, more than 1e-06'):
        correct._as_on_the_cpu(setup, build, prepare=moved(1e-4))


def test_without_a_gpu_it_says_so(gpu_check, tmp_path, capsys):
    if torch.cuda.is_available():
        return
    with pytest.raises(SystemExit):
        gpu_check.main(['--out', str(tmp_path)])
    assert 'there is no GPU here; --device cpu tries' in capsys.readouterr().err


@pytest.mark.slow
def test_the_correct_part_passes_on_the_cpu(gpu_check, tmp_path):
    gpu_check.main(f'--out {tmp_path} --device cpu --quick --minutes 20 --parts correct'.split())
    record = json.loads((tmp_path / 'gpu_check.json').read_text())
    verdicts = {o['name']: o['verdict'] for o in record['parts']['correct']}
    skipped = {name for name, verdict in verdicts.items() if verdict == 'skipped'}
    assert skipped == {'grad scaler', 'compiled', 'cuda graphs'}
    assert set(verdicts.values()) == {'passed', 'skipped'}


@pytest.mark.slow
def test_without_mmcvs_operations_the_detector_is_left_out(tmp_path):
    script = str(ROOT / 'tools/gpu_check.py')
    options = f'--out {tmp_path} --device cpu --quick --checks retinanet autocast'.split()
    done = subprocess.run(
        [sys.executable, '-c', WITHOUT_OPERATIONS, script, *options],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / 'gpu_check.json').read_text())
    assert record['mmcv_operations'] == 'nothing'
    found = {o['name']: o for o in record['parts']['correct']}
    assert found['autocast']['verdict'] == 'passed'
    assert found['retinanet']['verdict'] == 'skipped'
    assert 'without its operations' in found['retinanet']['found']['text']
