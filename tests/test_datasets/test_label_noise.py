"""Which labels change, how many, and that nothing else does."""

import mmpretrain.datasets  # noqa: F401
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmpretrain.registry import DATASETS

from mmpsbn.datasets import NoisyLabels
from mmpsbn.datasets.label_noise import randomise_labels


def noisy(labels, **settings):
    defaults = dict(num_classes=10, fraction=1.0, kind='uniform', seed=0)
    return randomise_labels(labels, **defaults | settings)


@given(
    labels=st.lists(st.integers(0, 6), max_size=40),
    fraction=st.floats(0, 1),
    kind=st.sampled_from(['uniform', 'permute']),
    seed=st.integers(0, 99),
)
def test_at_most_the_asked_for_labels_change_and_permuting_keeps_the_counts(
    labels, fraction, kind, seed
):
    labels = np.array(labels, dtype=np.int64)
    before = labels.copy()
    out = noisy(labels, num_classes=7, fraction=fraction, kind=kind, seed=seed)
    assert np.array_equal(labels, before)
    assert (out != labels).sum() <= round(fraction * len(labels))
    assert out.dtype == np.int64 and ((out >= 0) & (out < 7)).all()
    if kind == 'permute':
        assert sorted(out) == sorted(labels)
    again = noisy(labels, num_classes=7, fraction=fraction, kind=kind, seed=seed)
    assert np.array_equal(out, again)


@pytest.mark.parametrize('kind', ['uniform', 'permute'])
def test_exactly_the_asked_for_share_is_drawn(kind):
    """Labels that the draw cannot give by chance count every draw."""
    labels = np.arange(1000) if kind == 'permute' else np.full(1000, -1)
    for fraction, count in ((0.0, 0), (0.25, 250), (1.0, 1000)):
        changed = noisy(labels, fraction=fraction, kind=kind) != labels
        # of a permutation one element on average stays where it is
        assert count - (6 if kind == 'permute' and count else 0) <= changed.sum() <= count


@pytest.mark.parametrize('kind', ['uniform', 'permute'])
def test_random_labels_know_nothing_of_the_true_ones(kind):
    labels = np.arange(20000) % 10
    out = noisy(labels, kind=kind)
    table = np.zeros((10, 10))
    np.add.at(table, (labels, out), 1)
    assert np.abs(table - 200).max() < 5 * 200**0.5
    assert (noisy(labels, kind=kind, seed=1) != out).mean() > 0.8


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(fraction=1.1), 'fraction must be in 0..1 and seed >= 0, got 1.1 and 0'),
        (dict(seed=-1), 'fraction must be in 0..1 and seed >= 0, got 1.0 and -1'),
        (dict(kind='swap'), "kind must be 'uniform' or 'permute', got 'swap'"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        noisy(np.zeros(3, np.int64), **settings)


def in_memory(folder, split='train'):
    return dict(type='InMemoryImages', data_root=str(folder), split=split, source='folder')


def ordinary(folder, **arguments):
    return dict(
        type='CustomDataset',
        data_root=str(folder),
        data_prefix='train',
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
        **arguments,
    )


@pytest.mark.parametrize('kind', [in_memory, ordinary])
def test_a_loader_gets_the_noisy_labels_and_the_same_pictures(folder, loader_of, kind):
    clean = DATASETS.build(dict(kind(folder), _scope_='mmpretrain'))
    wrapped = NoisyLabels(dict(kind(folder), _scope_='mmpretrain'), fraction=0.5, seed=3)
    expected = randomise_labels(
        np.repeat(np.arange(3), 4), num_classes=3, fraction=0.5, kind='uniform', seed=3
    )
    assert wrapped.get_gt_labels().tolist() == expected.tolist()
    assert wrapped.metainfo['classes'] == clean.metainfo['classes'] and len(wrapped) == 12
    assert wrapped[4]['data_samples'].gt_label.tolist() == [expected[4]]
    loader = loader_of(wrapped, batch_size=12)
    batch = next(iter(loader))
    assert torch.cat([s.gt_label for s in batch['data_samples']]).tolist() == expected.tolist()
    for i in (0, 7, 11):
        assert torch.equal(batch['inputs'][i], clean[i]['inputs'])
    assert ('augment_seed' in batch) == (kind is in_memory)


def test_sets_that_are_not_for_training_are_refused(folder):
    with pytest.raises(ValueError, match="got split 'test' of InMemoryImages; leave the labels"):
        NoisyLabels(dict(in_memory(folder, 'test'), _scope_='mmpretrain'))
    with pytest.raises(ValueError, match='is for training sets, got .* of CustomDataset'):
        NoisyLabels(dict(ordinary(folder, test_mode=True), _scope_='mmpretrain'))
