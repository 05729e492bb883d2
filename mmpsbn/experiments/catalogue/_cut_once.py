"""What the experiments share that prune once, while a trained net is trained on."""

from ..experiment import Options

_FIRST_STEPS = 11  # one cut takes place after these, since a budget looks at ten steps before it


def cut_once(score: str, share: float, iterations: int) -> Options:
    """DemPHook with a single cut, as early as there is one in so many iterations, to a ``share`` of
    the MACs, and without what the hook can do besides."""
    end = round(_FIRST_STEPS / iterations + 5e-5, 4)
    budget = dict(flops=share, score=score, cuts=1, begin=0.0, end=end, reconstruct=False)
    return dict(type='DemPHook', budget=budget)
