"""Every experiment, from its configs to its table, picture and numbers."""

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
from runs import ROOT, run, with_arms

from mmpsbn.experiments import EXPERIMENTS
from mmpsbn.experiments.experiment import Arm
from mmpsbn.experiments.pictures import draw
from mmpsbn.experiments.reproduce import _config_of
from mmpsbn.experiments.scales import SCALES
from mmpsbn.experiments.training import default_jobs

CONFIG = 'cifar/resnet20_bn_cifar10_in_memory.py'


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_an_experiment_runs_and_is_not_run_twice(name, smoke, digits):
    folder, experiment = smoke(name), EXPERIMENTS[name]
    results = json.loads((folder / 'results.json').read_text())
    arms = experiment.arms('smoke')
    assert results['experiment'] == name and results['seed'] == 0 and results['scale'] == 'smoke'
    assert set(results['seconds']) == set(results['arms']) == {arm.name for arm in arms}
    assert set(results['machines']) == set(results['arms'])
    for machine in results['machines'].values():
        assert {'processor', 'cores', 'torch', 'mmengine', 'mmpsbn'} <= set(machine)
        assert machine['threads'] == max(1, os.cpu_count() // 2)  # two at a time
    verdict = experiment.judge(results['arms'])
    assert results['verdict'] == [asdict(finding) for finding in verdict]
    table = experiment.tabulate(results['arms']).markdown()
    findings = ''.join(f'\n- {finding}' for finding in verdict)
    assert (folder / 'table.md').read_text() == f'{table}\n{findings}\n'
    panels = experiment.panels(results['arms'])
    axes = draw(panels).axes
    assert [len(a.lines) for a in axes] == [len(panel.lines) for panel in panels]
    with Image.open(folder / 'plot.png') as picture:
        assert len(picture.convert('L').getcolors()) > 20
    written = {p: p.stat().st_mtime_ns for p in folder.glob('arms/*/*.pth')}
    again, lines = run(experiment, folder, data=digits)
    assert lines == [f'{arm.name}: is trained' for arm in arms]
    assert again == results
    assert written == {p: p.stat().st_mtime_ns for p in folder.glob('arms/*/*.pth')}


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_the_arms_of_every_scale_are_configs_of_their_own(name):
    for scale in SCALES:
        arms = EXPERIMENTS[name].arms(scale)
        assert len({arm.folder for arm in arms}) == len({arm.name for arm in arms}) == len(arms)
        # deepest differences are elsewhere: here, that each setting finds its place
        configs = [_config_of(arm, ROOT / 'configs', 0).to_dict() for arm in arms]
        for number, arm in enumerate(arms):
            before = arms[:number]
            assert arm.pretrained is None or arm.pretrained in before
            assert all(configs[number] != c or arm.pretrained for c in configs[:number]), arm.name


def test_psbn_finetune_starts_from_the_pretrained_net(smoke):
    arms = smoke('psbn-finetune') / 'arms'
    config = Config.fromfile(str(arms / 'BN_on_five_-_psBN_0.1/config.py'))
    assert config.model.backbone.init_cfg == dict(
        type='Pretrained', checkpoint=str(arms / 'BN_on_five/epoch_1.pth'), prefix='backbone.'
    )
    log = (arms / 'BN_on_five_-_psBN_0.1/train.log').read_text()
    assert 'BN_on_five/epoch_1.pth' in log and 'unexpected key' not in log.split('Hooks')[0]


def test_a_changed_setting_is_refused_and_a_moved_folder_is_not(smoke, digits, tmp_path):
    # whose arms name the folder: they start from one another
    shutil.copytree(smoke('psbn-finetune'), tmp_path / 'moved')
    before = {p: p.read_bytes() for p in tmp_path.rglob('*.py')}
    experiment = EXPERIMENTS['psbn-finetune']
    with pytest.raises(
        ValueError, match=r'settings: seed: 0 -> 1; arms\.BN on five\.randomness\.s'
    ):
        run(experiment, tmp_path / 'moved', data=digits, seed=1)
    other = EXPERIMENTS['psbn-rounds']
    with pytest.raises(ValueError, match=r"experiment: 'psbn-finetune' -> 'psbn-rounds'; "):
        run(other, tmp_path / 'moved', data=digits)
    assert before == {p: p.read_bytes() for p in tmp_path.rglob('*.py')}
    _, lines = run(experiment, tmp_path / 'moved', data=digits)
    assert lines == [f'{arm.name}: is trained' for arm in experiment.arms('smoke')]


def test_an_arm_a_core_by_default(monkeypatch):
    for available, jobs in ((False, os.cpu_count()), (True, 1)):
        monkeypatch.setattr(torch.cuda, 'is_available', lambda available=available: available)
        assert default_jobs() == jobs


def test_arms_that_fail_are_named_with_their_logs(digits, tmp_path):
    tiny = EXPERIMENTS['psbn-rounds'].arms('smoke')[0].options
    bad = Arm('bad, 1', CONFIG, tiny | {'model.backbone.depth': 9})
    after = Arm('after', CONFIG, tiny, pretrained=bad)
    good = Arm('good', CONFIG, tiny)
    with pytest.raises(RuntimeError, match=r'training failed.*: bad, 1 \(.*/bad_1/train\.log\)$'):
        run(with_arms([bad, after, good]), tmp_path, data=digits)
    assert 'ValueError: depth must be 6n + 2' in (tmp_path / 'arms/bad_1/train.log').read_text()
    assert (tmp_path / 'arms/good/numbers.json').exists()
    assert not (tmp_path / 'arms/after/train.log').exists()
    assert not (tmp_path / 'results.json').exists()


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
