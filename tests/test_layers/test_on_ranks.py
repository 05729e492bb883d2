"""Two gloo ranks: psSyncBN is psBN on the joined batch, and psBN's step is that of the formula in
the ways that torch shards models and optimizers."""

import pytest
import rank_worker
import torch
from rank_worker import RUNS, WAYS, data_of, forward_backward, layer_of
from ranks import run_on_ranks

from mmpsbn.layers import psSyncBN

TOLERANCE = {
    torch.float64: dict(rtol=1e-10, atol=1e-10),
    torch.float32: dict(rtol=1e-3, atol=1e-3),
    torch.bfloat16: dict(rtol=5e-2, atol=5e-2),
}


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    return run_on_ranks(rank_worker.work, 2, tmp_path_factory.mktemp('ranks'))


@pytest.fixture(scope='module')
def synchronised(ranks):
    return [rank['synchronised'] for rank in ranks]


def joined(name):
    """The joined batch in one process: psBN by flattening all positions into the batch."""
    (x0, w0), (x1, w1) = data_of(name, 0), data_of(name, 1)

    def flat(t):
        return t.movedim(1, -1).reshape(-1, t.size(1)).double()

    layer = layer_of(name).double()
    result = forward_backward(
        layer, torch.cat([flat(x0), flat(x1)]), torch.cat([flat(w0), flat(w1)]), steps=2
    )
    sizes = [flat(x0).size(0), flat(x1).size(0)]
    return result, sizes, flat


@pytest.mark.parametrize('name', RUNS)
def test_two_ranks_equal_one_process_with_the_joined_batch(synchronised, name):
    expected, sizes, flat = joined(name)
    close = TOLERANCE[RUNS[name][2]]
    ours = [rank[name] for rank in synchronised]
    for key in ('out', 'grad'):
        for rank, part in enumerate(expected[key].split(sizes)):
            assert ours[rank][key].dtype == RUNS[name][2]
            torch.testing.assert_close(flat(ours[rank][key]), part, **close)
    for key in ('gamma_grad', 'beta_grad'):
        total = ours[0][key] + ours[1][key]
        scale = float(expected[key].abs().max())
        torch.testing.assert_close(total.double() / scale, expected[key] / scale, **close)
    exact = RUNS[name][2] == torch.float64
    close = dict(rtol=1e-10, atol=1e-10) if exact else dict(rtol=1e-5, atol=1e-5)
    assert set(expected['buffers']) == set(ours[0]['buffers'])
    for key, value in expected['buffers'].items():
        first, second = (rank['buffers'][key] for rank in ours)
        torch.testing.assert_close(first, value, check_dtype=False, **close)
        assert torch.equal(first, second)


def test_eval_mode_needs_no_other_rank_and_a_group_of_one_no_one_either(synchronised):
    layer = layer_of('2d').eval()
    torch.testing.assert_close(synchronised[0]['eval'], layer(data_of('2d', 0)[0]))
    for rank in range(2):
        alone = psSyncBN(rank_worker.C).double()(data_of('2d', rank)[0])
        torch.testing.assert_close(synchronised[rank]['own-group'], alone)


def test_one_value_a_channel_over_all_ranks_is_refused_on_each(synchronised):
    for rank in synchronised:
        assert rank['one-value'].startswith('expected more than 1 value per channel over all ranks')


@pytest.mark.parametrize('way', WAYS)
def test_the_step_is_that_of_the_formula(ranks, way):
    assert [rank['differences'][way] < 1e-12 for rank in ranks] == [True, True]


@pytest.mark.skipif('fsdp1' not in WAYS, reason='FSDP on the CPU needs torch 2.2')
def test_flat_parameters_are_refused_by_name(ranks):
    said = ranks[0]['flat']
    assert '2 psBN layers are trained and their biases are in no optimizer' in said
    assert '.1, _fsdp_wrapped_module.4. An optimizer on copies (FSDP with use_orig' in said
