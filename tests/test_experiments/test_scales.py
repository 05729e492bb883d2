"""The data of the scales."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from mmpsbn.datasets.in_memory import InMemoryImages
from mmpsbn.experiments.scales import data_settings


@pytest.mark.parametrize('classes, train, test', [(10, 32, 16), (100, 3, 1)])
def test_the_pictures_of_smoke_have_all_classes_equally_often(classes, train, test, tmp_path):
    settings = data_settings('smoke', None, default_folder=tmp_path, classes=classes)
    assert settings.pop('train') == {}
    for split, count in dict(train=train, test=test).items():
        data = InMemoryImages(split=split, **settings)
        assert Counter(data.labels.tolist()) == dict.fromkeys(range(classes), count)
        assert data.images.shape[1:] == (3, 32, 32)
        assert len(np.unique(data.images.numpy(), axis=0)) == classes * count


def test_a_class_of_a_hundred_is_two_digits_side_by_side(tmp_path):
    both, one = (
        data_settings('smoke', None, default_folder=tmp_path, classes=classes)
        for classes in (100, 10)
    )
    both.pop('train'), one.pop('train')
    pairs, digits = (InMemoryImages(split='train', **of) for of in (both, one))
    tens, units = (
        digits.images[digits.labels == digit][:3].float().mean((0, 1)) for digit in (4, 7)
    )
    pair = pairs.images[pairs.labels == 47].float().mean((0, 1))
    for half, digit in ((pair[:, :16], tens), (pair[:, 16:], units)):
        narrow = digit.reshape(32, 16, 2).mean(2)
        assert np.corrcoef(half.flatten(), narrow.flatten())[0, 1] > 0.9


def test_the_pictures_of_small_are_those_of_the_data_set(tmp_path):
    with pytest.raises(FileNotFoundError, match='reads CIFAR-100 as picture files'):
        data_settings('small', str(tmp_path), default_folder=tmp_path, classes=100)


def test_after_a_kill_all_pictures_are_made(tmp_path, monkeypatch):
    def save(image, path, save=Image.Image.save):
        if path.name == '3.png':
            raise KeyboardInterrupt
        save(image, path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Image.Image, 'save', save)
        data_settings('smoke', None, default_folder=tmp_path)
    settings = data_settings('smoke', None, default_folder=tmp_path)
    settings.pop('train')
    assert len(InMemoryImages(split='train', **settings).images) == 320
