"""Crop, flip and normalisation of whole batches."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from mmpsbn.datasets.augmentation import BatchCropFlip, crop_and_flip, draw_crops_and_flips

MEAN, STD = [10.0, 20.0, 30.0], [2.0, 4.0, 8.0]


def one_by_one(images, top, left, flipped, padding):
    """The slow and obvious way."""
    out = []
    for image, i, j, mirror in zip(images, top.tolist(), left.tolist(), flipped.tolist()):
        padded = F.pad(image, (padding,) * 4)
        crop = padded[:, i : i + image.shape[1], j : j + image.shape[2]]
        out.append(crop.flip(2) if mirror else crop)
    return torch.stack(out)


@given(
    batch=st.integers(1, 9),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    padding=st.integers(0, 4),
    seed=st.integers(0, 999),
)
def test_a_batch_is_augmented_as_its_images_one_by_one(batch, size, padding, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(1, 256, (batch, 3, *size), dtype=torch.uint8, generator=generator)
    before = images.clone()
    draws = draw_crops_and_flips(batch, padding=padding, flip_prob=0.5, generator=generator)
    out = crop_and_flip(images, *draws, padding=padding)
    assert out.dtype == torch.uint8
    assert torch.equal(out, one_by_one(images, *draws, padding))
    assert torch.equal(images, before)


def test_draws_cover_their_range_evenly():
    generator = torch.Generator().manual_seed(0)
    top, left, flipped = draw_crops_and_flips(20000, padding=4, flip_prob=0.25, generator=generator)
    for edge in (top, left):
        counts = edge.bincount()
        assert len(counts) == 9
        assert (counts - 20000 / 9).abs().max() < 5 * (20000 / 9) ** 0.5
    assert abs(torch.corrcoef(torch.stack([top, left]).float())[0, 1]) < 0.05
    assert flipped.float().mean().item() == pytest.approx(0.25, abs=0.02)


def batch_of(num_images, **extra):
    images = torch.randint(0, 256, (num_images, 3, 8, 8), dtype=torch.uint8)
    samples = [DataSample().set_gt_label(i) for i in range(num_images)]
    return dict(inputs=images, data_samples=samples, **extra)


def test_the_preprocessor_normalises_and_augments_only_in_training():
    torch.manual_seed(0)
    net = MODELS.build(dict(type='BatchCropFlip', mean=MEAN, std=STD, padding=2))
    batch = batch_of(6, augment_seed=7)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))

    out = net(batch, training=False)
    assert set(out) == {'inputs', 'data_samples'}
    assert [int(s.gt_label) for s in out['data_samples']] == list(range(6))
    torch.testing.assert_close(out['inputs'], (batch['inputs'].float() - mean) / std)

    generator = torch.Generator().manual_seed(7)
    draws = draw_crops_and_flips(6, padding=2, flip_prob=0.5, generator=generator)
    expected = (one_by_one(batch['inputs'], *draws, 2).float() - mean) / std
    torch.testing.assert_close(net(batch, training=True)['inputs'], expected)
    # a hook slices the inputs alone, a plain loader gives a list and no seed
    sliced = net(dict(inputs=list(batch['inputs'][:2])))['inputs']
    torch.testing.assert_close(sliced, out['inputs'][:2])


def test_without_a_seed_in_the_batch_torchs_own_generator_draws():
    net, batch = BatchCropFlip(MEAN, STD), batch_of(8)
    torch.manual_seed(1)
    first, second = (net(batch, training=True)['inputs'] for _ in range(2))
    torch.manual_seed(1)
    assert torch.equal(net(batch, training=True)['inputs'], first)
    assert not torch.equal(first, second)


def test_images_and_labels_end_on_the_models_device():
    """The meta device stands for a GPU: labels on the CPU would stop the loss there."""
    out = BatchCropFlip(MEAN, STD).to('meta')(batch_of(3, augment_seed=0), training=True)
    assert out['inputs'].is_meta and out['inputs'].shape == (3, 3, 8, 8)
    assert all(sample.gt_label.is_meta for sample in out['data_samples'])


@pytest.mark.parametrize(
    'arguments', [dict(padding=-1), dict(flip_prob=1.5), dict(std=[1.0, 0.0, 1.0])]
)
def test_bad_settings_are_refused(arguments):
    with pytest.raises(ValueError, match='padding must be >= 0, flip_prob in 0..1 and std > 0'):
        BatchCropFlip(**dict(mean=MEAN, std=STD) | arguments)


def test_mixup_is_refused():
    with pytest.raises(ValueError, match="use mmpretrain's ClsDataPreprocessor, got.*Mixup"):
        BatchCropFlip(MEAN, STD, batch_augments=dict(augments=[dict(type='Mixup')]))
