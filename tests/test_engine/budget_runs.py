"""Runs with a budget, and what they say."""

from runs import EMA, train

WIDE = dict(type='ToyNet', width=32, inner=48)
AVERAGE = dict(EMA, update_buffers=True)


def choosing(*, prune=None, **settings) -> dict:
    """DemPHook with a budget, half of the MACs by default, that cuts from the start on, and to any
    width."""
    prune = dict(round_to=1) | (prune or {})
    if 'latency' in settings:  # for which the clock chooses
        del prune['round_to']
    kind = {} if {'params', 'latency'} & settings.keys() else dict(flops=0.5)
    return dict(type='DemPHook', budget=dict(begin=0.0, end=0.4) | kind | settings, prune=prune)


def run(tmp_path, *prepare, iters=100, hook=None, hooks=(), model=WIDE, **kwargs):
    hooks = [hook or choosing(), *hooks]
    return train(tmp_path, hooks, *prepare, iters=iters, model=model, **kwargs)


def events_of(messages):
    return [m for m in messages if m.startswith('prune event')]


def params(model):
    return sum(p.numel() for p in model.parameters())
