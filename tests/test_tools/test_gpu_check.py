"""tools/gpu_check.py: what its page says, and that its commands are those of the benchmarks."""

import importlib
from pathlib import Path

import pytest
import torch
from small_detector import ROOT


@pytest.fixture
def gpu_check(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools/benchmarks'))
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    return importlib.import_module('gpu_check')


def test_the_page_says_what_passed_and_a_failure_is_no_end(gpu_check, monkeypatch, tmp_path):
    page = tmp_path / 'out/gpu_check.md'
    on_cpu = 'import os; assert os.environ["CUDA_VISIBLE_DEVICES"] == ""'
    sleep = ['sh', '-c', f'echo $$ > {tmp_path}/pid; exec sleep 99']  # a rank, as it were
    scripts = {
        'right': f'{on_cpu}; print("| 1.5 |")',
        'wrong': 'raise ValueError("far off")',
        'endless': f'import subprocess; print("begun", flush=True); subprocess.run({sleep})',
        'written': f'print(open({str(page)!r}).read().count("##"), "before")',
    }
    commands = {title: ['-c', script] for title, script in scripts.items()}
    monkeypatch.setattr(gpu_check, 'checks_on', lambda device: commands)
    monkeypatch.setattr(gpu_check, 'SECONDS', 5)
    with pytest.raises(SystemExit) as ended:
        gpu_check.main(['--out', str(page.parent), '--device', 'cpu'])
    assert ended.value.code == 1
    text = page.read_text()
    assert '| right | passed |' in text and '\n\n| 1.5 |\n' in text
    assert '| wrong | failed with exit code 1 |' in text and 'ValueError: far off' in text
    assert '| endless | stopped after 5 s |' in text and '\nbegun\n' in text
    assert '\n3 before\n' in text
    rank = Path('/proc', (tmp_path / 'pid').read_text().strip(), 'cmdline')
    assert not rank.exists() or not rank.read_bytes()  # a zombie at most


def test_without_a_gpu_it_says_so(gpu_check, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(SystemExit):
        gpu_check.main(['--out', str(tmp_path)])
    assert 'there is no GPU here; --device cpu tries' in capsys.readouterr().err


@pytest.mark.parametrize('device', ['cuda', 'cpu'])
def test_the_benchmarks_take_its_options(gpu_check, device):
    tests, *benchmarks = gpu_check.checks_on(device).values()
    assert (ROOT / tests[2]).exists()
    for path, *options in benchmarks:
        assert (ROOT / path).exists()
        importlib.import_module(path.split('/')[-1].removesuffix('.py')).parse_args(options)
