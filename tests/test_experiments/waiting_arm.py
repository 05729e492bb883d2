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

from mmpsbn.experiments import EXPERIMENTS

ROOT = Path(__file__).resolve().parents[2]


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


def _arms(scale):
    arm = EXPERIMENTS['psbn-rounds'].arms('smoke')[0]
    options = arm.options | {
        'custom_imports.imports': ['mmpsbn', 'waiting_arm'],
        'custom_hooks': [*arm.options['custom_hooks'], dict(type='WaitAfterFirstRound')],
    }
    return [replace(arm, name=name, options=options) for name in 'ABCD']


WAITING = replace(EXPERIMENTS['psbn-rounds'], name='waiting', arms=_arms, judge=lambda numbers: [])

if __name__ == '__main__':
    EXPERIMENTS['waiting'] = WAITING
    runpy.run_path(str(ROOT / 'tools/reproduce.py'), run_name='__main__')
