"""What a training costs whose net gets smaller."""

from collections.abc import Sequence


def training_flops_left(
    macs_left: Sequence[float],
    dense_gradients: Sequence[bool] | None = None,
    *,
    first: float = 1.0,
) -> float:
    """Cumulative training FLOPs, as a share of the dense net's over as many iterations.

    An iteration of a net with the share f of the MACs costs 3 f in units of a dense forward pass:
    f forward, f for the gradients of activations, f for those of weights. Where the gradients of
    all weights are needed, of those that are 0 too, it costs 2 f + 1 (RigL, 1911.11134, appendix
    H). With that,

        sum_t (3 f_t, or 2 f_t + 1) / (3 T).

    The last f is the share of inference FLOPs.

    Args:
        macs_left: shape (T,), each in [0, 1]: the share of the dense net's MACs after each
            iteration, as DemPHook and SparseWeightsHook log it; so f_t is the one before it.
        dense_gradients: shape (T,), whether an iteration computes the gradients of all weights; by
            default none does.
        first: f_1, in [0, 1]; below 1 where the net is smaller before the first iteration, as with
            SET, RigL and a cut at the start.

    Raises:
        ValueError: there is no iteration, or not as many entries of each.
    """
    if not len(macs_left):
        raise ValueError('training FLOPs are summed over iterations, and there is none')
    dense_gradients = [False] * len(macs_left) if dense_gradients is None else dense_gradients
    during = [first, *map(float, macs_left[:-1])]
    steps = zip(during, dense_gradients, strict=True)
    return sum((2 * f + 1) / 3 if dense else f for f, dense in steps) / len(during)
