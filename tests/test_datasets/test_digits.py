"""The digits: what is written, that it says what it shows, and when a folder is refused."""

import itertools
import json
import os

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmpsbn.datasets import digits as digits_module
from mmpsbn.datasets.digits import (
    BACKGROUNDS,
    CLASSES,
    SETTINGS_FILE,
    load_split_digits,
    write_digits_dataset,
)

SETTINGS = dict(num_train=30, num_val=12, image_size=(160, 128), seed=0)
SMALL = dict(num_train=2, num_val=1, image_size=(64, 64), seed=0)


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    return write_digits_dataset(tmp_path_factory.mktemp('digits') / 'set', **SETTINGS)


def read_annotations(root, split):
    return json.loads((root / 'annotations' / f'{split}.json').read_text())


def all_bytes(root, pattern='**/*'):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.glob(pattern) if p.is_file()}


def test_files_are_a_function_of_the_settings(dataset, tmp_path):
    again = write_digits_dataset(tmp_path / 'again', **SETTINGS)
    assert all_bytes(again) == all_bytes(dataset)
    other = write_digits_dataset(tmp_path / 'other', **{**SETTINGS, 'seed': 1})
    assert not all_bytes(other, '*/*.jpg').items() & all_bytes(dataset, '*/*.jpg').items()
    # a larger set begins with the smaller one
    smaller = write_digits_dataset(tmp_path / 'smaller', **{**SETTINGS, 'num_train': 5})
    pictures = all_bytes(smaller, 'train/*')
    assert len(pictures) == 5 and pictures.items() <= all_bytes(dataset).items()


@pytest.mark.parametrize('split', ['train', 'val'])
def test_a_perfect_detector_gets_a_perfect_score_from_coco(dataset, split):
    coco = COCO(str(dataset / 'annotations' / f'{split}.json'))
    assert len(coco.getImgIds()) == SETTINGS[f'num_{split}']
    assert [category['name'] for category in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    for image in coco.loadImgs(coco.getImgIds()):
        with Image.open(dataset / split / image['file_name']) as picture:
            assert picture.size == (image['width'], image['height']) == SETTINGS['image_size']
        assert 1 <= len(coco.getAnnIds(imgIds=image['id'])) <= 6
    ids = coco.getAnnIds()
    assert len(set(ids)) == len(ids) == len(coco.dataset['annotations']) and min(ids) >= 1
    keys = 'image_id', 'category_id', 'bbox'
    found = [{k: a[k] for k in keys} | dict(score=0.9) for a in coco.loadAnns(ids)]
    evaluation = COCOeval(coco, coco.loadRes(found), 'bbox')
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_boxes_lie_inside_and_hardly_overlap(dataset, split):
    width, height = SETTINGS['image_size']
    by_image = {}
    for annotation in read_annotations(dataset, split)['annotations']:
        x, y, w, h = annotation['bbox']
        assert x >= 0 and y >= 0 and x + w <= width and y + h <= height
        assert annotation['area'] == w * h > 0 and annotation['iscrowd'] == 0
        assert 10 <= h <= 90 and w >= 4
        covered = np.zeros((height, width), bool)
        covered[y : y + h, x : x + w] = True
        by_image.setdefault(annotation['image_id'], []).append(covered)
    for boxes in by_image.values():
        for a, b in itertools.combinations(boxes, 2):
            assert (a & b).sum() <= 0.1 * min(a.sum(), b.sum())


def test_boxes_are_tight_on_the_ink(monkeypatch, tmp_path):
    """One white digit on black: the box must be where the bright pixels are, up to JPEG's blur."""
    black = Image.new('RGB', (400, 320))
    monkeypatch.setattr(digits_module, 'load_backgrounds', lambda split: {'black': black})
    monkeypatch.setattr(digits_module, '_DIGITS_PER_IMAGE', (1, 1))
    root = write_digits_dataset(tmp_path / 'black', **{**SETTINGS, 'num_train': 20})
    content = read_annotations(root, 'train')
    assert len(content['annotations']) == 20
    for annotation in content['annotations']:
        with Image.open(root / 'train' / f'{annotation["image_id"]:06d}.jpg') as picture:
            pixels = np.asarray(picture).max(2).astype(float)
        ink = pixels > 0.4 * pixels.max()
        rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
        x, y, w, h = annotation['bbox']
        measured = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose([x, y, x + w, y + h], measured, atol=2)


def test_train_and_val_share_no_digit_and_no_photograph(dataset):
    train_digits, train_labels = load_split_digits('train')
    val_digits, val_labels = load_split_digits('val')
    assert not set(train_digits) & set(val_digits) and len(train_digits) + len(val_digits) == 1797
    assert set(train_labels.values()) == set(val_labels.values()) == set(range(10))
    assert not set(BACKGROUNDS['train']) & set(BACKGROUNDS['val'])
    contents = {split: read_annotations(dataset, split) for split in ('train', 'val')}
    for split, labels in dict(train=train_labels, val=val_labels).items():
        for annotation in contents[split]['annotations']:
            assert annotation['category_id'] == labels[annotation['digit_index']] + 1
    train, val = ({i['background'] for i in contents[s]['images']} for s in ('train', 'val'))
    assert train and val and not train & val


def test_a_complete_set_is_reused_and_another_refused(dataset):
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob('*')}
    assert write_digits_dataset(dataset, **SETTINGS) == dataset
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob('*')} == before
    message = r'num_train 30 \(asked for 31\).*name another folder, or remove this one'
    with pytest.raises(ValueError, match=message):
        write_digits_dataset(dataset, **{**SETTINGS, 'num_train': 31})
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob('*')} == before


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path):
    foreign = tmp_path / 'foreign'
    foreign.mkdir()
    (foreign / 'thesis.txt').write_text('mine')
    with pytest.raises(ValueError, match='is not a digits data set'):
        write_digits_dataset(foreign, **SMALL)
    assert (foreign / 'thesis.txt').read_text() == 'mine'


def test_the_folder_appears_complete_or_not_at_all(monkeypatch, tmp_path):
    original, written = digits_module._write_split, []

    def fail_on_val(root, split, *args):
        if split == 'val':
            raise OSError(28, 'No space left on device')
        original(root, split, *args)

    with monkeypatch.context() as patch, pytest.raises(OSError, match='No space left'):
        patch.setattr(digits_module, '_write_split', fail_on_val)
        write_digits_dataset(tmp_path / 'set', **SMALL)
    assert not list(tmp_path.iterdir())

    def killed(source, destination):  # right before the one rename, all is written
        written.extend(sorted(path.name for path in source.rglob('*') if path.is_file()))
        raise KeyboardInterrupt

    monkeypatch.setattr(os, 'replace', killed)
    with pytest.raises(KeyboardInterrupt):
        write_digits_dataset(tmp_path / 'set', **SMALL)
    pictures = ['000000.jpg', '000000.jpg', '000001.jpg']
    assert written == [*pictures, SETTINGS_FILE, 'train.json', 'val.json']
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(digits_module.importlib.util, 'find_spec', lambda name: None)
    message = 'needs scikit-learn; install it with: pip install scikit-learn'
    with pytest.raises(ModuleNotFoundError, match=message):
        write_digits_dataset(tmp_path / 'set', **SMALL)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(num_train=0), 'num_train must be an integer >= 1, got 0'),
        (dict(num_val=1.5), 'num_val must be an integer >= 1, got 1.5'),
        (dict(seed=-1), 'seed must be an integer >= 0, got -1'),
        (dict(image_size=(160, 20)), r'image_size must be \(width, .*got \(160, 20\)'),
        (dict(image_size=(160, 128, 3)), r'image_size must be \(width, .*got \(160, 128, 3\)'),
    ],
)
def test_bad_arguments(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_digits_dataset(tmp_path / 'set', **{**SETTINGS, **change})
    assert not list(tmp_path.iterdir())
