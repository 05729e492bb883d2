"""The experiments by their names on the command line, a file each, found by its path.

``demp/dead_ratio.py`` is ``demp-dead-ratio``; of ``bn_only/bn_only.py`` the folder says it all:
``bn-only``. Files that begin with ``_`` hold what several experiments share.
"""

from importlib import import_module
from pathlib import Path

EXPERIMENTS = {}
_HERE = Path(__file__).parent
for _path in sorted(_HERE.rglob('[a-z]*.py')):
    _parts = _path.relative_to(_HERE).with_suffix('').parts
    _name = '-'.join(dict.fromkeys(_parts)).replace('_', '-')
    EXPERIMENTS[_name] = import_module('.'.join(('', *_parts)), __name__).EXPERIMENT
