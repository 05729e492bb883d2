"""What tests of hooks share: DemPHook that prunes and does nothing else, runs of the toy net, and
what these say."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

from snapshots import assert_same
from toy import kill_channels, toy_runner

from mmpsbn.engine import DemPHook
from mmpsbn.engine.runner_parts import averaged_models_of, bare_model

EMA = dict(type='EMAHook')
STREAM = ('norm', 'blocks.0.bn2', 'blocks.1.bn2')  # the norms that write the residual stream


def demp(*, penalty=0.0, noise=0.0, **prune) -> dict:
    """DemPHook with these peaks. It prunes every 6 iterations, after 16 samples."""
    return dict(
        type='DemPHook',
        penalty=dict(peak=penalty),
        noise=dict(peak_std=noise),
        prune=dict(interval=6, num_samples=16) | prune,
    )


def killing(*channels):
    """What kills these channels of the inner norm of the first block, the second one, ..."""

    def kill(runner) -> None:
        for block, dead in zip(bare_model(runner).blocks, channels):
            kill_channels(block.bn1, dead)

    return kill


def around_events(before=None, after=None):
    """What calls these with the runner, right before and after each of its prune events."""

    def spy_on(runner) -> None:
        pruner = pruner_of(runner)
        prune = pruner.prune

        def spied(runner, data_batch):
            before and before(runner)
            prune(runner, data_batch)
            after and after(runner)

        pruner.prune = spied

    return spy_on


def slow() -> dict:
    """An optim_wrapper that hardly moves the weights."""
    return dict(optimizer=dict(type='SGD', lr=1e-4))


def messages_of(runner) -> list[str]:
    """What a runner says from now on, at all levels."""
    messages = []
    runner.logger.setLevel('INFO')
    runner.logger.handlers.append(
        SimpleNamespace(level=0, handle=lambda record: messages.append(record.getMessage()))
    )
    return messages


def train(work_dir, hooks=(), *prepare, **kwargs):
    """A runner that has trained, and what it has said; each ``prepare(runner)`` comes before."""
    hooks = [dict(hook) if isinstance(hook, dict) else hook for hook in hooks]
    runner = toy_runner(work_dir, hooks, **kwargs)
    messages = messages_of(runner)
    for call in prepare:
        call(runner)
    runner.train()
    return runner, messages


def resume_from(checkpoint) -> dict:
    """Arguments of a runner."""
    return dict(resume=True, load_from=str(checkpoint))


def state_of(runner) -> list:
    """Weights of the model and of its averages, and the optimizer's state."""
    models = (bare_model(runner), *averaged_models_of(runner))
    return [*(model.state_dict() for model in models), runner.optim_wrapper.state_dict()['state']]


def assert_resumes(folder, hooks, *prepare, at, fresh=dict, **kwargs):
    """A run that goes on from one of its checkpoints ends bit for bit as the one that never
    stopped, which is returned. ``fresh()``: what each run has for itself."""
    whole, _ = train(folder / 'whole', copy.deepcopy(hooks), *prepare, **kwargs, **fresh())
    checkpoint = folder / 'whole' / at
    kwargs |= fresh() | resume_from(checkpoint)
    resumed, _ = train(folder / 'resumed', copy.deepcopy(hooks), **kwargs)
    assert_same(state_of(resumed), state_of(whole))
    assert pruner_of(resumed).progress.left == pruner_of(whole).progress.left
    return whole


def hook_of(runner, kind=DemPHook):
    return next(hook for hook in runner.hooks if isinstance(hook, kind))


def pruner_of(runner):
    return hook_of(runner).pruner


def average_of(runner):
    return averaged_models_of(runner)[0]


def inner_widths(model) -> list[int]:
    return [block.conv1.out_channels for block in model.blocks]


def scalars(runner, key='sparsity/collapsed') -> list[dict]:
    """The records with a key that the visualizer has written."""
    path = Path(runner.log_dir) / 'vis_data/scalars.json'
    return [r for r in map(json.loads, path.read_text().splitlines()) if key in r]
