"""The experiments by their names on the command line, a file each, found by its path.

``demp/dead_ratio.py`` is ``demp-dead-ratio``; of ``bn_only/bn_only.py`` the folder says it all:
``bn-only``. The docstring of the file says what it shows. Files that begin with ``_`` hold what
several experiments share.
"""

from dataclasses import replace
from importlib import import_module
from pkgutil import walk_packages

EXPERIMENTS = {}
for _module in walk_packages(__path__, f'{__name__}.'):
    _parts = _module.name.removeprefix(f'{__name__}.').split('.')
    if not _module.ispkg and not _parts[-1].startswith('_'):
        _name = '-'.join(dict.fromkeys(_parts)).replace('_', '-')
        _file = import_module(_module.name)
        _shows = ' '.join(_file.__doc__.split())
        EXPERIMENTS[_name] = replace(_file.EXPERIMENT, shows=_shows)
