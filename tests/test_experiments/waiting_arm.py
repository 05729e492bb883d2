"""An experiment whose arms wait after their first round until they may go on.

Run as a script: ``tools/reproduce.py`` that knows it.
"""

import os
import runpy
import time
from dataclasses import replace
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from trained import ROOT, with_arms

from mmpsbn.experiments import EXPERIMENTS


@HOOKS.register_module(force=True)
class WaitAfterFirstRound(Hook):
    """Writes its process id to ``waiting`` and waits for ``go`` in the work folder."""

    def before_train_epoch(self, runner):
        if runner.epoch == 1:
            folder = Path(runner.work_dir)
            (folder / 'waiting.part').write_text(str(os.getpid()))
            (folder / 'waiting.part').rename(folder / 'waiting')
            while not (folder / 'go').exists():
                time.sleep(0.02)


_ARM = EXPERIMENTS['psbn-rounds'].arms('smoke')[0]
_OPTIONS = _ARM.options | {
    'custom_imports.imports': ['mmpsbn', 'waiting_arm'],
    'custom_hooks': [*_ARM.options['custom_hooks'], dict(type='WaitAfterFirstRound')],
}
WAITING = with_arms(*(replace(_ARM, name=n, options=_OPTIONS) for n in ('whole', 'stopped')))

if __name__ == '__main__':
    EXPERIMENTS['waiting'] = WAITING
    runpy.run_path(str(ROOT / 'tools/reproduce.py'), run_name='__main__')
