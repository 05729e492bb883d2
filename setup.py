"""Packaging: where OpenMMLab tools look for the configs and tools of an installed package.

MMEngine reads `mmpsbn::dir/file.py` from mmpsbn/.mim/configs (beside a model-index.yml), and
`from mmpsbn.configs.dir.file import *` from mmpsbn/configs. A wheel carries copies there, an
editable install links.
"""

import os
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.develop import develop

ROOT = Path(__file__).resolve().parent
# place in the package: origin in the repository
PLACES = {
    'configs': 'configs',
    '.mim/configs': 'configs',
    '.mim/tools': 'tools',
    '.mim/model-index.yml': 'model-index.yml',
}


def link_places():
    for place, origin in PLACES.items():
        link = ROOT / 'mmpsbn' / place
        link.parent.mkdir(exist_ok=True)
        if link.is_symlink() or not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.relpath(ROOT / origin, link.parent))


def copy_places(package):
    for place, origin in PLACES.items():
        target = package / place
        target.parent.mkdir(exist_ok=True)
        if (ROOT / origin).is_file():
            shutil.copy(ROOT / origin, target)
            continue
        shutil.rmtree(
            target, ignore_errors=True
        )  # a kept build folder may hold files that are gone
        shutil.copytree(ROOT / origin, target, ignore=shutil.ignore_patterns('__pycache__'))


class BuildPy(build_py):
    def run(self):
        super().run()
        if getattr(self, 'editable_mode', False):
            link_places()
        else:
            copy_places(Path(self.build_lib, 'mmpsbn'))


class Develop(develop):
    def run(self):
        super().run()
        link_places()


def requirements(name):
    lines = (
        line.split('#')[0].strip()
        for line in (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    )
    found = []
    for line in filter(None, lines):
        if line.startswith('-r '):
            found += requirements(line[3:].strip().removesuffix('.txt'))
        else:
            found.append(line)
    return found


readme = ROOT / 'README.md'
version = (ROOT / 'mmpsbn' / 'version.py').read_text()
setup(
    name='mmpsbn',
    version=re.search(r"__version__ = '(.+?)'", version).group(1),
    description='Detection finetuning that neither loses filters by accident nor keeps those it '
    'does not need (psBN, DemP) for MMDetection',
    long_description=readme.read_text(encoding='utf-8') if readme.exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    entry_points=dict(console_scripts=['mmpsbn = mmpsbn.cli:main']),
    packages=find_packages(include=['mmpsbn', 'mmpsbn.*']),
    package_data={'mmpsbn.analysis': ['*.html']},
    # Not here: mmdet, mmcv, mmengine, mmpretrain. Two families of distributions provide them under
    # the same import names (requirements/default.txt and requirements/openmmlab.txt); to require
    # one would break environments with the other.
    install_requires=['torch>=2.1', 'numpy', 'filelock'],
    extras_require={name: requirements(name) for name in ('demo', 'test', 'onnx', 'compare')},
    cmdclass=dict(build_py=BuildPy, develop=Develop),
    zip_safe=False,
)
