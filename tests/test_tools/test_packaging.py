"""What `pip install .` and `pip install -e .` put where OpenMMLab tools look for configs."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from small_detector import ROOT


def python(*arguments, cwd, **env):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=dict(os.environ, **env),
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """A copy, as from a clone."""
    folder = tmp_path_factory.mktemp('clone') / 'project'
    for name in ('mmpsbn', 'configs', 'tools', 'requirements'):
        links = ('.mim', 'configs') if name == 'mmpsbn' else ()
        ignored = shutil.ignore_patterns('__pycache__', *links)
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ('setup.py', 'pyproject.toml', 'MANIFEST.in', 'LICENSE', 'model-index.yml'):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope='module')
def wheel(project):
    done = python('setup.py', '-q', 'bdist_wheel', cwd=project)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next(project.glob('dist/mmpsbn-*.whl')))


def test_wheel_carries_configs_tools_and_the_command(project, wheel):
    names = wheel.namelist()
    for folder in ('configs', 'tools'):
        files = {
            path.relative_to(project).as_posix()
            for path in (project / folder).rglob('*')
            if path.is_file() and '__pycache__' not in path.parts
        }
        assert files and {f'mmpsbn/.mim/{file}' for file in files} <= set(names)
    modules = {path.relative_to(project).as_posix() for path in (project / 'mmpsbn').rglob('*.py')}
    assert modules <= set(names)
    assert {'mmpsbn/configs/_base_/psbn.py', 'mmpsbn/.mim/model-index.yml'} <= set(names)
    templates = ('page', 'parts', 'report', 'logs')
    assert {f'mmpsbn/analysis/{name}.html' for name in templates} <= set(names)
    assert not any(name.startswith(('configs/', 'tools/', 'tests/')) for name in names)
    (scripts,) = (name for name in names if name.endswith('/entry_points.txt'))
    assert b'mmpsbn = mmpsbn.cli:main' in wheel.read(scripts)


@pytest.mark.slow
def test_the_command_finds_configs_where_no_clone_is(wheel, tmp_path):
    wheel.extractall(tmp_path / 'site')
    config = 'mmpsbn::bccd/retinanet_r18_bn_bccd.py'
    done = python('-m', 'mmpsbn', 'train', config, cwd=tmp_path, PYTHONPATH='site')
    assert done.stderr.splitlines()[-1].startswith("error: 'data/bccd/' (train_dataloader")


def test_editable_install_links_them(project):
    done = python('setup.py', '-q', 'editable_wheel', '--dist-dir', 'dist', cwd=project)
    assert done.returncode == 0, done.stderr
    for name in ('configs', 'tools', 'model-index.yml'):
        link = project / 'mmpsbn/.mim' / name
        assert link.is_symlink() and link.resolve() == project / name
    assert (project / 'mmpsbn/configs').resolve() == project / 'configs'
