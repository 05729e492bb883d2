"""The floors: a package imports only from floors below it."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / 'mmpsbn'
# package -> mmpsbn packages it may import (beside itself), third-party packages it may import
FLOORS = {
    'functional': (set(), {'torch'}),
    'layers': ({'functional'}, {'torch'}),
    'pruning': ({'functional', 'layers'}, {'torch'}),
    'models': ({'functional', 'layers', 'pruning'}, None),
    'datasets': ({'functional', 'layers', 'pruning'}, None),
}
for _floor in ('engine', 'commands', 'analysis', 'experiments', 'cli'):
    FLOORS[_floor] = {*FLOORS, 'version'}, None
# mmpsbn/configs is a link to the configs: data
FILES = sorted(
    p for p in ROOT.rglob('*.py') if p.relative_to(ROOT).parts[0] not in ('configs', '.mim')
)


def imports(source, package):
    """Absolute names of all that a module in ``package`` imports, wherever in it."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = (
                package.split('.')[: len(package.split('.')) - node.level + 1] if node.level else []
            )
            module = '.'.join([*base, *([node.module] if node.module else [])])
            # "from .. import layers" imports a package, "from ..layers import x" a name of it
            names += (
                [f'{module}.{alias.name}' for alias in node.names]
                if module == 'mmpsbn'
                else [module]
            )
    return names


def package_of(path):
    return '.'.join(('mmpsbn', *path.relative_to(ROOT).parent.parts))


def floor_of(path):
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else None


def violations(source, package, floor):
    own, third_party = FLOORS[floor]
    found = []
    for name in imports(source, package):
        top, _, rest = name.partition('.')
        if top == 'mmpsbn':
            target = rest.split('.')[0]
            if target not in {floor, 'upstream', *own}:  # upstream.py lies below all floors
                found.append(name)
        elif (
            top not in sys.stdlib_module_names
            and third_party is not None
            and top not in third_party
        ):
            found.append(name)
    return found


def test_every_package_has_a_floor():
    assert {floor_of(p) for p in FILES if floor_of(p)} == set(FLOORS)
    assert {p.name for p in ROOT.glob('*.py')} == {
        '__init__.py',
        '__main__.py',
        'registration.py',
        'registry.py',
        'upstream.py',
        'version.py',
    }


@pytest.mark.parametrize(
    'path', [p for p in FILES if floor_of(p)], ids=lambda p: str(p.relative_to(ROOT))
)
def test_a_file_imports_only_from_below(path):
    assert violations(path.read_text(), package_of(path), floor_of(path)) == []


@pytest.mark.parametrize(
    'source, package, found',
    [
        ('import mmengine', 'mmpsbn.functional', ['mmengine']),
        ('def f():\n    from mmengine.hooks import Hook', 'mmpsbn.pruning', ['mmengine.hooks']),
        ('from ..engine import DemPHook', 'mmpsbn.layers', ['mmpsbn.engine']),
        ('from .. import engine', 'mmpsbn.pruning', ['mmpsbn.engine']),
        ('import mmpsbn', 'mmpsbn.layers', ['mmpsbn']),
        ('from mmpsbn.pruning.plan import PrunePlan', 'mmpsbn.layers', ['mmpsbn.pruning.plan']),
        ('from ...engine.ranks import x', 'mmpsbn.pruning.sub', ['mmpsbn.engine.ranks']),
        ('import torch_pruning as tp', 'mmpsbn.functional', ['torch_pruning']),
        ('import numpy, math, torch.nn as nn', 'mmpsbn.functional', ['numpy']),
        ('from ..analysis import plots', 'mmpsbn.engine', ['mmpsbn.analysis']),
        (
            'from .schedules import Schedule\nfrom ..functional import noise',
            'mmpsbn.functional',
            [],
        ),
        ('from ..layers import psBN2d\nimport torch', 'mmpsbn.pruning', []),
        ('import mmengine\nfrom ..pruning import PrunePlan', 'mmpsbn.engine', []),
    ],
)
def test_the_reader_of_imports_sees_each_form(source, package, found):
    assert violations(source, package, package.split('.')[1]) == found


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nobody_checks_input_with_assert(path):
    assert not [
        n.lineno for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Assert)
    ]
