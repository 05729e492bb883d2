"""psSyncBN on two gloo ranks is psBN on the joined batch."""

import pytest
import sync_worker
import torch
import torch.multiprocessing as mp
from sync_worker import RUNS, data_of, forward_backward, layer_of

from mmpsbn.layers import psSyncBN

TOLERANCE = {
    torch.float64: dict(rtol=1e-10, atol=1e-10),
    torch.float32: dict(rtol=1e-3, atol=1e-3),
    torch.bfloat16: dict(rtol=5e-2, atol=5e-2),
}


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ranks')
    mp.spawn(sync_worker.work, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f'rank{rank}.pth') for rank in range(2)]


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
def test_two_ranks_equal_one_process_with_the_joined_batch(ranks, name):
    expected, sizes, flat = joined(name)
    close = TOLERANCE[RUNS[name][2]]
    for key in ('out', 'grad'):
        for rank, part in enumerate(expected[key].split(sizes)):
            ours = ranks[rank][name][key]
            assert ours.dtype == RUNS[name][2]
            torch.testing.assert_close(flat(ours), part, **close)
    for key in ('gamma_grad', 'beta_grad'):
        total = ranks[0][name][key] + ranks[1][name][key]
        scale = float(expected[key].abs().max())
        torch.testing.assert_close(total.double() / scale, expected[key] / scale, **close)


@pytest.mark.parametrize('name', RUNS)
def test_running_statistics_are_those_of_the_joined_batch_on_both_ranks(ranks, name):
    expected = joined(name)[0]['buffers']
    close = (
        dict(rtol=1e-10, atol=1e-10)
        if RUNS[name][2] == torch.float64
        else dict(rtol=1e-5, atol=1e-5)
    )
    assert set(expected) == set(ranks[0][name]['buffers'])
    for key, value in expected.items():
        for rank in range(2):
            torch.testing.assert_close(
                ranks[rank][name]['buffers'][key], value, check_dtype=False, **close
            )
        assert torch.equal(ranks[0][name]['buffers'][key], ranks[1][name]['buffers'][key])


def test_eval_mode_needs_no_other_rank_and_a_group_of_one_no_one_either(ranks):
    layer = layer_of('2d').eval()
    torch.testing.assert_close(ranks[0]['eval'], layer(data_of('2d', 0)[0]))
    for rank in range(2):
        alone = psSyncBN(sync_worker.C).double()(data_of('2d', rank)[0])
        torch.testing.assert_close(ranks[rank]['own-group'], alone)
