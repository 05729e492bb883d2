"""What `pip install .` and `pip install -e .` put where OpenMMLab tools look for configs."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def copy_of_the_project(folder):
    for name in ('mmpsbn', 'configs', 'tools', 'requirements'):
        shutil.copytree(
            ROOT / name,
            folder / name,
            ignore=shutil.ignore_patterns(
                '__pycache__', '.mim', 'configs' if name == 'mmpsbn' else ''
            ),
        )
    for name in ('setup.py', 'pyproject.toml', 'MANIFEST.in', 'LICENSE', 'model-index.yml'):
        shutil.copy(ROOT / name, folder)
    return folder


def run_setup(project, *args):
    done = subprocess.run(
        [sys.executable, 'setup.py', '-q', *args],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_wheel_carries_configs_and_tools(tmp_path):
    project = copy_of_the_project(tmp_path)
    run_setup(project, 'bdist_wheel')
    names = zipfile.ZipFile(next(project.glob('dist/mmpsbn-*.whl'))).namelist()
    for folder in ('configs', 'tools'):
        files = {
            path.relative_to(project).as_posix()
            for path in (project / folder).rglob('*')
            if path.is_file() and '__pycache__' not in path.parts
        }
        assert files and {f'mmpsbn/.mim/{file}' for file in files} <= set(names)
    assert 'mmpsbn/configs/_base_/psbn.py' in names
    assert 'mmpsbn/.mim/model-index.yml' in names
    assert 'mmpsbn/analysis/report/page.html' in names
    assert not any(name.startswith(('configs/', 'tools/', 'tests/')) for name in names)


def test_editable_install_links_them(tmp_path):
    project = copy_of_the_project(tmp_path)
    run_setup(project, 'editable_wheel', '--dist-dir', 'dist')
    for name in ('configs', 'tools', 'model-index.yml'):
        link = project / 'mmpsbn/.mim' / name
        assert link.is_symlink() and link.resolve() == project / name
    assert (project / 'mmpsbn/configs').resolve() == project / 'configs'
