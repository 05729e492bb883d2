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
TOP = {
    '__init__.py',
    '__main__.py',
    'registration.py',
    'registry.py',
    'upstream.py',
    'version.py',
}
# mmpsbn/configs is a link to the configs: data
FILES = [
    path
    for path in sorted(ROOT.rglob('*.py'))
    if path.relative_to(ROOT).parts[0] not in ('configs', '.mim')
]


def imports(source, package):
    """Absolute names of all that a module in ``package`` imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split('.')
            base = parts[: len(parts) - node.level + 1] if node.level else []
            module = '.'.join([*base, *filter(None, [node.module])])
            # "from .. import layers" imports a package, "from ..layers import x" a name of it
            inside = [f'{module}.{alias.name}' for alias in node.names]
            yield from inside if module == 'mmpsbn' else [module]


def violations(source, package):
    floor = package.split('.')[1]
    own, third_party = FLOORS[floor]
    for name in imports(source, package):
        top, _, rest = name.partition('.')
        if top == 'mmpsbn':
            if rest.split('.')[0] not in {floor, 'upstream', *own}:  # which lies below all floors
                yield name
        elif third_party is not None and top not in {*third_party, *sys.stdlib_module_names}:
            yield name


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_from_below_and_does_not_check_input_with_assert(path):
    folders = path.relative_to(ROOT).parts[:-1]
    if folders:
        assert list(violations(path.read_text(), '.'.join(('mmpsbn', *folders)))) == []
    else:
        assert path.name in TOP
    if path.name == 'upstream.py':  # below all floors: pruning, which knows torch alone, uses it
        tops = {name.partition('.')[0] for name in imports(path.read_text(), 'mmpsbn')}
        assert tops <= {'torch', *sys.stdlib_module_names}
    nodes = ast.walk(ast.parse(path.read_text()))
    assert [node.lineno for node in nodes if isinstance(node, ast.Assert)] == []


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
        ('import numpy, math, torch.nn as nn', 'mmpsbn.functional', ['numpy']),
        ('from ..analysis import plots', 'mmpsbn.engine', ['mmpsbn.analysis']),
        ('from .schedules import Schedule\nfrom ..functional import x', 'mmpsbn.functional', []),
        ('from ..layers import psBN2d\nimport torch', 'mmpsbn.pruning', []),
        ('import mmengine\nfrom ..pruning import PrunePlan', 'mmpsbn.engine', []),
    ],
)
def test_the_reader_of_imports_sees_each_form(source, package, found):
    assert list(violations(source, package)) == found
