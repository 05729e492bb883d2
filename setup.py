"""Packaging. A wheel carries configs/ and tools/ in mmpsbn/.mim/, where OpenMMLab tools look for them; an editable install links them there."""
import os
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.develop import develop

ROOT = Path(__file__).resolve().parent
MIM = ('configs', 'tools', 'model-index.yml')


def link_mim():
    """mmpsbn/.mim/<name> -> ../../<name>"""
    mim = ROOT / 'mmpsbn' / '.mim'
    mim.mkdir(exist_ok=True)
    for name in MIM:
        link = mim / name
        if link.is_symlink() or not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.join('..', '..', name))


class BuildPy(build_py):

    def run(self):
        super().run()
        if getattr(self, 'editable_mode', False):
            link_mim()
            return
        for name in MIM:
            target = Path(self.build_lib, 'mmpsbn', '.mim', name)
            shutil.rmtree(target, ignore_errors=True)  # a kept build folder may hold files that are gone
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns('__pycache__'))
            else:
                shutil.copy(ROOT / name, target)


class Develop(develop):

    def run(self):
        super().run()
        link_mim()


def requirements(name):
    lines = (line.split('#')[0].strip() for line in (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines())
    found = []
    for line in filter(None, lines):
        found += requirements(line[3:].strip()[:-len('.txt')]) if line.startswith('-r ') else [line]
    return found


readme = ROOT / 'README.md'
setup(
    name='mmpsbn',
    version=re.search(r"__version__ = '(.+?)'", (ROOT / 'mmpsbn' / 'version.py').read_text()).group(1),
    description='Detection finetuning that neither loses filters by accident nor keeps those it does not need (psBN, DemP) for MMDetection',
    long_description=readme.read_text(encoding='utf-8') if readme.exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['mmpsbn', 'mmpsbn.*']),
    # Not here: mmdet, mmcv, mmengine, mmpretrain. Two families of distributions provide them under the same import names
    # (requirements/default.txt and requirements/openmmlab.txt); to require one would break environments with the other.
    install_requires=['torch>=2.1', 'torch-pruning>=1.6.1,<1.7', 'numpy'],
    extras_require={name: requirements(name) for name in ('demo', 'test', 'onnx')},
    cmdclass=dict(build_py=BuildPy, develop=Develop),
    zip_safe=False,
)
