"""tools/gpu_check.py, tried on the CPU: what it finds, what it says, and when it stops."""

import importlib
import json
import subprocess
import sys
import time
from dataclasses import replace

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
    end = time.monotonic() + 99
    how = dict(device='cpu', quick=True, seed=0, folder=tmp_path, data=None, deadline=end)
    return checks.Setup(**how)


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


def test_a_later_run_adds_to_the_page(run, checks):
    def found(text):
        def check(setup):
            """..."""
            if text is None:
                raise checks.Skip('no time')
            return checks.Found(text, ['how much'], [[checks.Found('of any type')]])

        return check

    def named(**texts):
        return [setattr(f := found(t), '__name__', name) or f for name, t in texts.items()]

    run(*named(first='old', second='old', third='old'))
    record, page, _ = run(*named(second='new', third=None))
    texts = {o['name']: o['found']['text'] for o in record['parts']['part']}
    assert texts == dict(first='old', second='new', third='old')
    assert record['summary']['passed'] == 3 and page.count("| Found(text='of any type'") == 3


def test_a_page_of_other_settings_is_not_overwritten(gpu_check, checks, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, 'PARTS', dict(part=checks.Part()))
    command = f'--out {tmp_path} --device cpu --minutes 1'.split()
    gpu_check.main(command)
    before = (tmp_path / 'gpu_check.json').read_text()
    with pytest.raises(SystemExit, match='the page of a run with another quick, seed: name'):
        gpu_check.main([*command, '--quick', '--seed', '1'])
    assert (tmp_path / 'gpu_check.json').read_text() == before


def test_a_check_that_there_is_not_is_refused(gpu_check, tmp_path, capsys):
    with pytest.raises(SystemExit):
        gpu_check.main(f'--out {tmp_path} --device cpu --checks resnet81 budget'.split())
    assert "--checks: ['resnet81'] are none of ['psbn layers'" in capsys.readouterr().err


def test_what_a_check_sets_for_the_process_is_undone(run, checks, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, 'benchmark', True)

    def deterministic(setup):
        """..."""
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        torch.use_deterministic_algorithms(True)
        return checks.Found('all is well')

    run(deterministic)
    assert torch.backends.cudnn.benchmark and not torch.backends.cudnn.deterministic
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize('kind', ['quick', 'whole'])
def test_all_checks_fit_into_the_time(gpu_check, kind):
    needed = [getattr(c, kind) or 0 for part in gpu_check.PARTS.values() for c in part]
    assert sum(needed) <= 60 * gpu_check.MINUTES[kind]


def test_only_a_whole_cifar10_is_trained_on(gpu_check, setup, checks, tmp_path):
    papers = importlib.import_module('gpu.papers')
    on_gpu = replace(setup, device='cuda', data=str(tmp_path))
    with pytest.raises(checks.Skip, match='nothing is fetched'):
        papers.psbn_rounds(on_gpu)
    pickles = tmp_path / 'cifar-10-batches-py'
    pickles.mkdir()
    for name in ['test_batch', 'batches.meta', *(f'data_batch_{i}' for i in range(1, 6))]:
        assert not papers._has_cifar10(tmp_path)
        (pickles / name).touch()
    assert papers._has_cifar10(tmp_path)


def test_what_the_detector_needs(gpu_check, checks, monkeypatch):
    monkeypatch.setattr(checks, 'mmcv_operations', lambda: 'cpu')
    checks.needs_detector('cuda', 'cpu')
    with pytest.raises(checks.Skip, match="needs mmcv's operations for cuda: for cpu here"):
        checks.needs_detector('cuda')
    monkeypatch.setattr(checks, 'find_spec', lambda name: None)
    with pytest.raises(checks.Skip, match='MMDetection is not installed'):
        checks.needs_detector('cpu')
    with pytest.raises(checks.Skip, match='scikit-learn is not installed'):
        checks.needs_digits()


def test_a_format_that_is_lost_is_found(gpu_check):
    correct = importlib.import_module('gpu.correct')
    net = torch.nn.Conv2d(3, 4, 3)
    with pytest.raises(AssertionError, match='weight.* are not in channels_last any more'):
        correct._require_form(net)
    correct._require_form(net.to(memory_format=torch.channels_last))


def test_a_device_that_is_wrong_is_found(gpu_check, setup):
    correct = importlib.import_module('gpu.correct')
    build, hooks = correct._resnet18(setup), [correct.demp()]

    def moved(by, dead=()):
        def prepare(model):
            with torch.no_grad():
                model.net.conv1.weight[0, 0, 0, 0] += by
                model.net.layer1[0].bn1.weight[1] += by
            return model

        return prepare

    with pytest.raises(AssertionError, match='other channels went than on the CPU'):
        correct._as_on_the_cpu(setup, build, hooks, prepare=moved(10.0))
    with pytest.raises(AssertionError, match='is .* from the CPU, more than 1e-06'):
        correct._as_on_the_cpu(setup, build, prepare=moved(1e-4))


def test_without_a_gpu_it_says_so(gpu_check, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(SystemExit):
        gpu_check.main(['--out', str(tmp_path)])
    assert 'there is no GPU here; --device cpu tries' in capsys.readouterr().err


@pytest.mark.slow
def test_the_correct_part_passes_on_the_cpu(gpu_check, tmp_path):
    names = [check.name for check in gpu_check.PARTS['correct']]
    in_one_process = [name for name in names if name not in ('export', 'two processes')]
    options = f'--out {tmp_path} --device cpu --quick --minutes 20 --parts correct --checks'
    gpu_check.main([*options.split(), *in_one_process])
    record = json.loads((tmp_path / 'gpu_check.json').read_text())
    verdicts = {o['name']: o['verdict'] for o in record['parts']['correct']}
    skipped = {name for name, verdict in verdicts.items() if verdict == 'skipped'}
    assert skipped == {'grad scaler', 'compiled', 'cuda graphs'}
    assert set(verdicts.values()) == {'passed', 'skipped'}


@pytest.mark.slow
def test_the_fast_part_on_the_cpu(gpu_check, tmp_path):
    gpu_check.main(f'--out {tmp_path} --device cpu --quick --minutes 20 --parts fast'.split())
    record = json.loads((tmp_path / 'gpu_check.json').read_text())
    rows = {o['name']: len(o['found']['rows']) for o in record['parts']['fast']}
    assert rows['psbn beside batchnorm'] == 2 * 2 and rows['pruned resnet18'] == 2 * 2
    passed = {o['name'] for o in record['parts']['fast'] if o['verdict'] == 'passed'}
    assert passed == {'psbn beside batchnorm', 'pruned resnet18', 'pictures in memory'}


@pytest.mark.slow
def test_the_papers_part_is_stopped_by_the_time(gpu_check, setup):
    papers = importlib.import_module('gpu.papers')
    setup = replace(setup, quick=False, deadline=time.monotonic() + papers._RESERVE + 12)
    found = papers.psbn_rounds(setup)
    assert found.text == 'scale smoke: stopped by the time; the next run goes on'
    assert (setup.folder / 'psbn-rounds.log').exists() and setup.left > 0


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
    assert "needs mmcv's operations" in found['retinanet']['found']['text']
