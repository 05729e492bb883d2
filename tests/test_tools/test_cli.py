"""The console command: from its first word to one module."""

import importlib
import runpy
import shlex
import subprocess
import sys

import pytest
from mmengine.config import Config
from small_detector import ROOT, refusal, run

from mmpsbn.cli import COMMANDS, arguments
from mmpsbn.commands.launch import load_config

FILES = {command: command for command in COMMANDS} | dict(report='sparsity_report', plot='plot_log')


@pytest.mark.parametrize('command, file', FILES.items())
def test_a_command_and_its_file_in_tools_are_the_same(command, file, capsys):
    for arguments_, code in ((['--help'], 0), (['--no-such-option'], 2)):
        with pytest.raises(SystemExit) as stopped:
            run(command, *arguments_)
        assert stopped.value.code == code
    assert f'usage: mmpsbn {command} [-h]' in capsys.readouterr().err
    tool = runpy.run_path(str(ROOT / f'tools/{file}.py'))
    assert tool['main'] is importlib.import_module(f'mmpsbn.cli.{command}').main


def test_the_command_itself(capsys):
    with pytest.raises(SystemExit) as stopped:
        run('trian')
    assert stopped.value.code == 2 and "'trian'" in capsys.readouterr().err


def test_the_modules_of_other_commands_are_not_imported():
    command = [sys.executable, '-X', 'importtime', '-m', 'mmpsbn', 'plot', '--help']
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert 'usage: mmpsbn plot' in done.stdout, done.stderr
    imported = {line.rpartition('|')[2].strip() for line in done.stderr.splitlines()}
    assert 'mmpsbn.analysis' in imported
    assert not imported & {'mmdet', 'mmpsbn.commands.prune', 'mmpsbn.experiments'}


def test_mmcv_without_its_operations_will_do():
    script = "import sys; sys.modules['mmcv._ext'] = None; import mmpsbn"
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_a_config_of_an_installed_package():
    name = 'retinanet/retinanet_r50_bn_demp.py'
    cfg = load_config(f'mmpsbn::{name}')
    assert cfg.model == Config.fromfile(str(ROOT / 'configs' / name)).model
    assert cfg.work_dir == './work_dirs/retinanet_r50_bn_demp'
    theirs = load_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')
    assert theirs.model.type == 'RetinaNet'


def test_a_config_of_a_package_that_is_imported_from_its_clone(tmp_path, monkeypatch):
    for folder, file in (('a_clone_of_nets', '__init__.py'), ('configs', 'small.py')):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text('width = 8\n')
    monkeypatch.syspath_prepend(tmp_path)
    assert load_config('a_clone_of_nets::small.py').width == 8


@pytest.mark.parametrize(
    'name, message',
    [
        ('no/config.py', "error: config 'no/config.py' does not exist"),
        ('mmpsbn::no/config.py', "error: config 'mmpsbn::no/config.py' does not exist"),
        ('no_such_package::config.py', "error: no package 'no_such_package' is installed"),
    ],
)
def test_no_such_config(name, message):
    assert refusal(run, 'train', name).startswith(message)


def test_what_comes_next_exists_for_the_reader(monkeypatch):
    monkeypatch.setattr(arguments.shutil, 'which', {'mmpsbn': '/bin/mmpsbn'}.get)
    assert arguments.command_line('test', 'my config.py') == "mmpsbn test 'my config.py'"
    monkeypatch.setattr(arguments.shutil, 'which', lambda name: None)
    words = shlex.split(arguments.command_line('test', 'my config.py'))
    assert words == [sys.executable, '-m', 'mmpsbn', 'test', 'my config.py']


def test_plot_says_what_it_wrote_and_refuses_the_rest(tmp_path):
    log = tmp_path / 'scalars.json'
    log.write_text('{"iter": 1, "loss": 2.0, "sparsity/collapsed": 3}\n')
    picture = tmp_path / 'log.png'
    assert run('plot', log, '--out', picture) == f'Wrote {picture}\n' and picture.exists()
    message = refusal(run, 'plot', tmp_path / 'none.json', '--out', tmp_path / 'b.png')
    assert message.startswith('error: no scalars at ')
