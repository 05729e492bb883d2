"""The FLOPs of a whole training."""

import pytest

from mmpsbn.functional.training_flops import training_flops_left


def test_an_iteration_costs_what_the_net_was_before_it():
    assert training_flops_left([1.0, 1.0]) == 1.0
    assert training_flops_left([1.0, 0.5, 0.5, 0.1]) == (1 + 1 + 0.5 + 0.5) / 4
    assert training_flops_left([0.3, 0.3, 0.1], first=0.5) == pytest.approx((0.5 + 0.3 + 0.3) / 3)
    assert training_flops_left([0.3, 0.1], [True, False], first=0.4) == pytest.approx(
        (1.8 / 3 + 0.3) / 2
    )


def test_the_gradients_of_all_weights_cost_a_dense_third():
    """RigL: (3 f dT + 2 f + 1) / (3 (dT + 1)) for one dense gradient after dT sparse ones."""
    left, dense = [0.2] * 1000, [t % 10 == 9 for t in range(1000)]
    expected = (3 * 0.2 * 9 + 2 * 0.2 + 1) / 30
    assert training_flops_left(left, dense) == pytest.approx(expected, abs=1e-3)
    assert training_flops_left([1.0, 1.0], [True, False]) == 1.0


def test_shares_of_no_iteration_and_of_other_ones_are_refused():
    with pytest.raises(ValueError, match='there is none'):
        training_flops_left([])
    with pytest.raises(ValueError):
        training_flops_left([1.0, 1.0], [True])
