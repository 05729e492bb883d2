"""From configs to table, picture and numbers: a pair of arms, and every experiment."""

import json
import os
import re
import runpy
import shutil
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from PIL import Image
from trained import CONFIG, PAIR, ROOT, TINY, run, with_arms

from mmpsbn.analysis.logs import progress
from mmpsbn.experiments import EXPERIMENTS, catalogue, training
from mmpsbn.experiments.experiment import Arm
from mmpsbn.experiments.folder import ExperimentFolder
from mmpsbn.experiments.measure import MEASURES
from mmpsbn.experiments.reproduce import config_of
from mmpsbn.experiments.scales import SCALES
from mmpsbn.experiments.tables import ArmTable
from mmpsbn.experiments.training import default_jobs

CATALOGUE = Path(catalogue.__file__).parent


def check_results(name, experiment, folder, digits, *, seeds, jobs):
    """What a finished run has written, and that running it again trains nothing."""
    results = json.loads((folder / 'results.json').read_text())
    arms = experiment.arms('smoke')
    runs = {arm.name: list(dict.fromkeys(map(arm.run, seeds))) for arm in arms}
    names = [run for own in runs.values() for run in own]
    assert results['experiment'] == name and results['measures'] == experiment.measures
    assert results['seeds'] == list(seeds) and results['scale'] == 'smoke'
    assert list(results['seconds']) == list(results['machines']) == names
    assert {arm: list(numbers) for arm, numbers in results['arms'].items()} == runs
    for machine in results['machines'].values():
        assert {'processor', 'cores', 'torch', 'mmengine', 'mmpsbn'} <= set(machine)
        assert machine['threads'] == min(torch.get_num_threads(), max(1, os.cpu_count() // jobs))
    for numbers in results['arms'].values():
        assert all(list(of) == experiment.measures for of in numbers.values())
    head, rule, *rows, _, about = (folder / 'table.md').read_text().splitlines()
    assert head.count('|') - head.count('\\|') == rule.count('|')
    if isinstance(experiment.table, ArmTable):
        assert [row.split(' | ')[0].lstrip('| ') for row in rows] == list(runs)
    assert f'n = {len(seeds)}' in about and all(str(seed) in about for seed in seeds)
    with Image.open(folder / 'plot.png') as picture:
        assert len(picture.convert('L').getcolors()) > 20
    written = {p: p.stat().st_mtime_ns for p in folder.glob('arms/*/epoch_*.pth')}
    assert len(written) >= len(names)
    again, lines = run(name, experiment, folder, data=digits, seeds=seeds)
    assert sorted(lines) == sorted(f'{name}: is trained' for name in names)
    assert again == results
    assert written == {p: p.stat().st_mtime_ns for p in folder.glob('arms/*/epoch_*.pth')}


def test_a_pair_of_arms_runs_and_is_not_run_twice(pair, digits):
    check_results('pair', PAIR, pair, digits, seeds=(0, 1), jobs=1)


@pytest.mark.slow
@pytest.mark.parametrize('name', EXPERIMENTS)
def test_an_experiment_runs_and_is_not_run_twice(name, digits, tmp_path):
    run(name, EXPERIMENTS[name], tmp_path, data=digits)
    check_results(name, EXPERIMENTS[name], tmp_path, digits, seeds=(0,), jobs=2)
    if name == 'bn-only':  # only what is trained moves
        log = (tmp_path / 'arms/BN_8_seed_0/train.log').read_text()
        assert 'frozen tensors are the same to the bit' in log


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_the_arms_of_every_scale_are_configs_of_their_own(name):
    experiment = EXPERIMENTS[name]
    assert set(experiment.measures) <= set(MEASURES)
    for scale in SCALES:
        arms = experiment.arms(scale)
        folders = {ExperimentFolder('out').run(arm.run(0)) for arm in arms}
        assert len(folders) == len({arm.name for arm in arms}) == len(arms)
        # deepest differences are elsewhere: here, that each setting finds its place
        configs = [config_of(arm).to_dict() for arm in arms]
        for number, arm in enumerate(arms):
            assert not arm.pretrained or arm.pretrained in [a.name for a in arms[:number]]
            assert all(configs[number] != c or arm.pretrained for c in configs[:number]), arm.name


def test_the_path_of_a_file_is_the_name_of_its_experiment():
    files = [file for file in CATALOGUE.rglob('*.py') if '\nEXPERIMENT = ' in file.read_text()]
    assert len(files) == len(EXPERIMENTS)
    for name, module in {
        'bn-only': 'bn_only.bn_only',
        'bn-only-wide-controls': 'bn_only.wide_controls',
        'finetune-tradeoff': 'finetune_tradeoff',
    }.items():
        file = import_module(f'{catalogue.__name__}.{module}')
        assert EXPERIMENTS[name].table is file.EXPERIMENT.table


def test_the_docstring_of_a_file_says_in_a_line_what_its_experiment_shows():
    shows = EXPERIMENTS['psbn-vgg11'].shows
    assert shows.startswith('sections 3.4 and 3.5 and figure 1a of the psBN paper: VGG-11 with BN')
    assert shows.endswith('without, with instance norm, and linear')  # a line break is in between


def test_every_experiment_has_a_row_in_the_coverage():
    rows = (ROOT / 'docs/coverage.md').read_text()
    named = set(re.findall(r'`([a-z0-9]+(?:-[a-z0-9]+)*)`', rows))
    assert set(EXPERIMENTS) - named == set()
    assert {n for n in named if n.startswith(('psbn-', 'implicit-', 'bn-', 'demp-'))} <= {
        *EXPERIMENTS
    }


def test_an_arm_starts_from_the_pretrained_net_of_its_seed_and_from_one_that_all_share(pair):
    assert {folder.name for folder in (pair / 'arms').iterdir()} == {
        'first_1_seed_0',
        'second_seed_0',
        'second_seed_1',
    }
    for seed in (0, 1):
        config = Config.fromfile(str(pair / f'arms/second_seed_{seed}/config.py'))
        assert config.randomness.seed == seed
        assert config.model.backbone.init_cfg == dict(
            type='Pretrained',
            checkpoint=str(pair / 'arms/first_1_seed_0/epoch_1.pth'),
            prefix='backbone.',
        )
    log = (pair / 'arms/second_seed_1/train.log').read_text()
    assert 'first_1_seed_0/epoch_1.pth' in log
    assert 'unexpected key' not in log.split('Hooks')[0]


def test_seeds_differ_and_their_mean_is_in_the_table(pair):
    files = [pair / f'arms/second_seed_{seed}/epoch_1.pth' for seed in (0, 1)]
    nets = [torch.load(file, weights_only=False)['state_dict'] for file in files]
    assert not torch.equal(*(net['backbone.conv1.weight'] for net in nets))
    results = json.loads((pair / 'results.json').read_text())
    table = (pair / 'table.md').read_text()
    assert 'Mean ± standard deviation of the sample, n = 2 (seeds 0, 1).' in table
    mean = sum(numbers['top1'][0] for numbers in results['arms']['second'].values()) / 2
    assert f'{mean:.1f} ± ' in table


def test_a_changed_setting_is_refused_and_a_moved_folder_is_not(pair, digits, tmp_path):
    shutil.copytree(pair, tmp_path / 'moved')  # whose arms name the folder: one is the other's
    before = {p: p.read_bytes() for p in tmp_path.rglob('*.py')}
    arms = [
        replace(arm, options={**arm.options, 'train_cfg.max_epochs': 2})
        for arm in PAIR.arms('smoke')
    ]
    changed = r'settings: arms\.first, 1\.train_cfg\.max_epochs: 1 -> 2; arms\.second\.'
    with pytest.raises(ValueError, match=changed):
        run('pair', with_arms(*arms), tmp_path / 'moved', data=digits)
    with pytest.raises(ValueError, match=r"experiment: 'pair' -> 'psbn-rounds'; "):
        run('psbn-rounds', EXPERIMENTS['psbn-rounds'], tmp_path / 'moved', data=digits)
    assert before == {p: p.read_bytes() for p in tmp_path.rglob('*.py')}
    _, lines = run('pair', PAIR, tmp_path / 'moved', data=digits)  # one of its seeds
    assert lines == ['first, 1, seed 0: is trained', 'second, seed 0: is trained']


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
    log = tmp_path / 'arms/bad_1_seed_0/train.log'
    with pytest.raises(RuntimeError, match=rf'training failed.*: bad, 1, seed 0 \({log}\)$'):
        run('bad', with_arms(bad, after, good), tmp_path, data=digits, lines=lines)
    # the other one may fail before anybody looks
    assert any(re.match('good, seed 0: (starting|epoch)', line) for line in lines)
    assert 'ValueError: depth must be 6n + 2' in log.read_text()
    assert (tmp_path / 'arms/good_seed_0/numbers.json').exists()
    assert not (tmp_path / 'arms/after_seed_0/train.log').exists()
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
        (['--scale', 'smoke', '--seeds', '1', '2', '1'], 'error: --seeds names 1 twice'),
    ],
)
def test_the_tool_says_what_is_missing(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['reproduce.py', 'bn-only', '--out', 'out', *arguments])
    with pytest.raises(SystemExit, match=message):
        runpy.run_path(str(ROOT / 'tools/reproduce.py'), run_name='__main__')
    assert not (tmp_path / 'out').exists()
