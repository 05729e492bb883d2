"""Everything surgery could change, and its comparison bit for bit."""

import torch


def snapshot(model, *optimizers):
    """Everything surgery could change, by value."""
    state = {
        name: (tensor.detach().clone(), None if tensor.grad is None else tensor.grad.clone())
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
    }
    sizes = {
        name: {k: v for k, v in vars(m).items() if isinstance(v, int)}
        for name, m in model.named_modules()
    }
    slots = [
        {
            (i, k): v.clone() if isinstance(v, torch.Tensor) else v
            for i, p in enumerate(model.parameters())
            for k, v in o.state.get(p, {}).items()
        }
        for o in optimizers
    ]
    return state, sizes, slots


def assert_same(ours, theirs):
    """Bit equality of two snapshots."""
    if isinstance(ours, torch.Tensor):
        assert (
            ours.dtype == theirs.dtype
            and ours.stride() == theirs.stride()
            and torch.equal(ours, theirs)
        )
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_same(ours[key], theirs[key])
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs):
            assert_same(a, b)
    else:
        assert ours == theirs
