"""From configs to table, picture and numbers: a pair of arms, and every experiment."""

import json
import os
import runpy
import shutil
import sys
from dataclasses import asdict

import pytest
import torch
from mmengine.config import Config
from PIL import Image
from trained import CONFIG, PAIR, ROOT, TINY, run, with_arms

from mmpsbn.analysis.logs import progress
from mmpsbn.experiments import EXPERIMENTS, training
from mmpsbn.experiments.experiment import Arm
from mmpsbn.experiments.folder import ExperimentFolder
from mmpsbn.experiments.measured import Measured
from mmpsbn.experiments.reproduce import config_of
from mmpsbn.experiments.scales import SCALES
from mmpsbn.experiments.tables import markdown
from mmpsbn.experiments.training import default_jobs
from mmpsbn.experiments.verdicts import sentence


def check_results(experiment, folder, digits, *, jobs):
    """What a finished run has written, and that running it again trains nothing."""
    results = json.loads((folder / 'results.json').read_text())
    names = [arm.name for arm in experiment.arms['smoke']]
    assert results['experiment'] == experiment.name
    assert results['seed'] == 0 and results['scale'] == 'smoke'
    assert list(results['seconds']) == list(results['arms']) == list(results['machines']) == names
    for machine in results['machines'].values():
        assert {'processor', 'cores', 'torch', 'mmengine', 'mmpsbn'} <= set(machine)
        assert machine['threads'] == max(1, os.cpu_count() // jobs)
    numbers = {name: Measured(name, arm) for name, arm in results['arms'].items()}
    verdicts = experiment.claims(numbers)
    assert results['verdict'] == [dict(clause=c, **asdict(v)) for c, v in verdicts.items()]
    table = markdown(*experiment.table.lines(numbers))
    findings = '\n'.join(f'- {sentence(clause, v)}' for clause, v in verdicts.items())
    assert (folder / 'table.md').read_text() == f'{table}\n\n{findings}\n'
    with Image.open(folder / 'plot.png') as picture:
        assert len(picture.convert('L').getcolors()) > 20
    written = {p: p.stat().st_mtime_ns for p in folder.glob('arms/*/epoch_*.pth')}
    assert len(written) == len(names)
    again, lines = run(experiment, folder, data=digits)
    assert lines == [f'{name}: is trained' for name in names]
    assert again == results
    assert written == {p: p.stat().st_mtime_ns for p in folder.glob('arms/*/epoch_*.pth')}


def test_a_pair_of_arms_runs_and_is_not_run_twice(pair, digits):
    check_results(PAIR, pair, digits, jobs=1)


@pytest.mark.slow
@pytest.mark.parametrize('name', EXPERIMENTS)
def test_an_experiment_runs_and_is_not_run_twice(name, digits, tmp_path):
    run(EXPERIMENTS[name], tmp_path, data=digits)
    check_results(EXPERIMENTS[name], tmp_path, digits, jobs=2)
    if name == 'bn-only':  # only what is trained moves
        log = (tmp_path / 'arms/BN_8/train.log').read_text()
        assert 'frozen tensors are the same to the bit' in log


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_the_arms_of_every_scale_are_configs_of_their_own(name):
    assert tuple(EXPERIMENTS[name].arms) == SCALES
    for arms in EXPERIMENTS[name].arms.values():
        folders = {ExperimentFolder('out').arm(arm.name) for arm in arms}
        assert len(folders) == len({arm.name for arm in arms}) == len(arms)
        # deepest differences are elsewhere: here, that each setting finds its place
        configs = [config_of(arm, ROOT / 'configs', 0).to_dict() for arm in arms]
        for number, arm in enumerate(arms):
            assert not arm.pretrained or arm.pretrained in [a.name for a in arms[:number]]
            assert all(configs[number] != c or arm.pretrained for c in configs[:number]), arm.name


def test_an_arm_starts_from_the_pretrained_net(pair):
    config = Config.fromfile(str(pair / 'arms/second/config.py'))
    assert config.model.backbone.init_cfg == dict(
        type='Pretrained', checkpoint=str(pair / 'arms/first_1/epoch_1.pth'), prefix='backbone.'
    )
    log = (pair / 'arms/second/train.log').read_text()
    assert 'first_1/epoch_1.pth' in log and 'unexpected key' not in log.split('Hooks')[0]


def test_a_changed_setting_is_refused_and_a_moved_folder_is_not(pair, digits, tmp_path):
    shutil.copytree(pair, tmp_path / 'moved')  # whose arms name the folder: one is the other's
    before = {p: p.read_bytes() for p in tmp_path.rglob('*.py')}
    with pytest.raises(ValueError, match=r'settings: seed: 0 -> 1; arms\.first, 1\.randomness\.s'):
        run(PAIR, tmp_path / 'moved', data=digits, seed=1)
    with pytest.raises(ValueError, match=r"experiment: 'pair' -> 'psbn-rounds'; "):
        run(EXPERIMENTS['psbn-rounds'], tmp_path / 'moved', data=digits)
    assert before == {p: p.read_bytes() for p in tmp_path.rglob('*.py')}
    _, lines = run(PAIR, tmp_path / 'moved', data=digits)
    assert lines == ['first, 1: is trained', 'second: is trained']


def test_an_arm_a_core_by_default(monkeypatch):
    for available, jobs in ((False, os.cpu_count()), (True, 1)):
        monkeypatch.setattr(torch.cuda, 'is_available', lambda available=available: available)
        assert default_jobs() == jobs


def test_arms_that_fail_are_named_with_their_logs(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(training, '_REPORT_SECONDS', 0.0)
    lines = []
    bad = Arm('bad, 1', CONFIG, TINY | {'model.backbone.depth': 9})
    after = Arm('after', CONFIG, TINY, pretrained='bad, 1')
    good = Arm('good', CONFIG, TINY)
    with pytest.raises(RuntimeError, match=r'training failed.*: bad, 1 \(.*/bad_1/train\.log\)$'):
        run(with_arms(bad, after, good), tmp_path, data=digits, lines=lines)
    assert 'good: starting' in lines  # the other one may fail before anybody looks
    assert 'ValueError: depth must be 6n + 2' in (tmp_path / 'arms/bad_1/train.log').read_text()
    assert (tmp_path / 'arms/good/numbers.json').exists()
    assert not (tmp_path / 'arms/after/train.log').exists()
    assert not (tmp_path / 'results.json').exists()


def test_the_progress_is_the_last_whole_line_of_the_newest_log(tmp_path):
    for run_dir, loss in (('1', 5.0), ('2', 0.25)):
        log = tmp_path / run_dir / 'vis_data/scalars.json'
        log.parent.mkdir(parents=True)
        lines = [json.dumps(dict(epoch=3, loss=loss)), json.dumps({'accuracy/top1': 1}), '{"epo']
        log.write_text('\n'.join(lines))
    assert progress(tmp_path) == 'epoch 3, loss 0.250'


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--scale', 'small', '--data', 'nowhere'], 'error: .*/nowhere has no folder train: --sc'),
        (['--scale', 'smoke', '--jobs', '0'], 'error: --jobs must be >= 1, got 0'),
    ],
)
def test_the_tool_says_what_is_missing(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['reproduce.py', 'bn-only', '--out', 'out', *arguments])
    with pytest.raises(SystemExit, match=message):
        runpy.run_path(str(ROOT / 'tools/reproduce.py'), run_name='__main__')
    assert not (tmp_path / 'out').exists()
