"""Weights that stay: which are drawn to move, and whether the others are the same to the bit."""

import pytest
import torch
from torch import nn

from mmpsbn.functional.frozen import digest, random_weight_mask


def mask_of(layer, per_channel, seed=0):
    return random_weight_mask(
        layer.weight,
        per_channel=per_channel,
        channel_dim=1 if getattr(layer, 'transposed', False) else 0,
        generator=torch.Generator().manual_seed(seed),
    )


@pytest.mark.parametrize('per_channel', [1, 2, 8])
@pytest.mark.parametrize(
    'layer, dims',
    [
        (nn.Conv2d(4, 6, 3), (1, 2, 3)),
        (nn.Conv2d(4, 6, 3, groups=2), (1, 2, 3)),
        (nn.ConvTranspose2d(6, 4, 3), (0, 2, 3)),
        (nn.Conv1d(4, 6, 3), (1, 2)),
    ],
    ids=['conv', 'grouped', 'transposed', '1d'],
)
def test_so_many_of_each_output_channel(layer, dims, per_channel):
    mask = mask_of(layer, per_channel)
    assert mask.shape == layer.weight.shape and mask.dtype == torch.bool
    assert mask.sum(dims).unique().tolist() == [per_channel]


def test_a_channel_with_fewer_weights_is_whole():
    assert mask_of(nn.Conv2d(3, 5, 1), 4).all()


def test_every_weight_may_be_drawn_and_the_seed_decides():
    layer = nn.Conv2d(2, 4000, 3)
    mask = mask_of(layer, 2)
    shares = mask.float().mean(0)
    assert shares.sub(2 / 18).abs().max() < 0.02
    assert torch.equal(mask, mask_of(layer, 2)) and not torch.equal(mask, mask_of(layer, 2, 1))


def test_a_digest_is_of_the_bits():
    a = torch.tensor([1.0, 0.0])
    assert digest([a]) == digest([a.clone()]) == digest([a[:1], a[1:]])
    assert digest([a]) != digest([torch.tensor([1.0, -0.0])])
    assert digest([a]) != digest([torch.nextafter(a, a + 1)])
    assert digest([a, a * 2]) != digest([a * 2, a])


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64, torch.int64])
def test_a_digest_of_any_dtype_shape_and_stride(dtype):
    a = torch.arange(12).to(dtype).view(3, 4)
    assert digest([a.t()]) == digest([a.t().contiguous()]) != digest([a])
    assert digest([a[0, 1]]) == digest([a[0, 1].clone()])
