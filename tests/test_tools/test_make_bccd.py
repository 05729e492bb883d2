"""tools/make_bccd.py: the Pascal VOC files of BCCD as the COCO files that configs/bccd reads."""

import json

import pytest
from mmengine.config import Config
from PIL import Image
from pycocotools.coco import COCO
from small_detector import ROOT, refusal, run_tool

BOX = """
    <object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>
    </bndbox></object>"""
# The first objects of two of its files, and one without an area.
OBJECTS = dict(
    BloodImage_00001=[('WBC', 68, 315, 286, 480), ('RBC', 346, 361, 446, 454)],
    BloodImage_00007=[('RBC', 9, 1, 9, 9)],
    BloodImage_00000=[('WBC', 260, 177, 491, 376), ('Platelets', 1, 281, 21, 316)],
    BloodImage_00002=[('RBC', 78, 336, 184, 435)],
)
SPLITS = dict(
    train=['BloodImage_00001', 'BloodImage_00007'],
    val=['BloodImage_00000'],
    test=['BloodImage_00002'],
)


def annotate(voc, name, objects):
    boxes = ''.join(BOX.format(*values) for values in objects)
    (voc / f'Annotations/{name}.xml').write_text(f'<annotation>{boxes}</annotation>')


@pytest.fixture
def voc(tmp_path):
    folder = tmp_path / 'BCCD'
    for part in ('Annotations', 'ImageSets/Main', 'JPEGImages'):
        (folder / part).mkdir(parents=True)
    for split, names in SPLITS.items():
        (folder / f'ImageSets/Main/{split}.txt').write_text('\n'.join(names) + '\n')
    for name, objects in OBJECTS.items():
        annotate(folder, name, objects)
        Image.new('RGB', (640, 480)).save(folder / f'JPEGImages/{name}.jpg')
    return folder


def test_both_splits_are_converted_and_the_test_split_is_left_out(voc, tmp_path, capsys):
    run_tool('make_bccd', voc, tmp_path / 'out')
    said = capsys.readouterr().out
    assert 'train: 2 photographs, 2 boxes\nval: 1 photographs, 2 boxes\n' in said
    empty = voc / 'Annotations/BloodImage_00007.xml'
    assert f'left out, a box without an area: (9.0, 1.0, 9.0, 9.0) in {empty}' in said
    train, val = (
        json.loads((tmp_path / f'out/annotations/{split}.json').read_text())
        for split in ('train', 'val')
    )
    assert train['images'] == [
        dict(id=1, file_name='BloodImage_00001.jpg', width=640, height=480),
        dict(id=7, file_name='BloodImage_00007.jpg', width=640, height=480),
    ]
    # corners as they stand: no 1 is taken off, and box ids go on from train to val
    boxes = train['annotations'] + val['annotations']
    assert [[a[k] for k in ('id', 'image_id', 'category_id', 'bbox')] for a in boxes] == [
        [1, 1, 2, [68, 315, 218, 165]],
        [2, 1, 1, [346, 361, 100, 93]],
        [3, 0, 2, [260, 177, 231, 199]],
        [4, 0, 3, [1, 281, 20, 35]],
    ]
    assert [a['area'] for a in boxes[2:]] == [45969, 700]
    images = {path.stem for path in (tmp_path / 'out/images').iterdir()}
    assert images == set(OBJECTS) - {'BloodImage_00002'}


def test_the_files_are_those_the_config_reads(voc, tmp_path):
    cfg = Config.fromfile(str(ROOT / 'configs/bccd/retinanet_r18_bn_bccd.py'))
    run_tool('make_bccd', voc, tmp_path)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        coco = COCO(str(tmp_path / loader.dataset.ann_file))
        names = tuple(category['name'] for category in coco.loadCats(coco.getCatIds()))
        assert names == loader.dataset.metainfo.classes
        for image in coco.loadImgs(coco.getImgIds()):
            assert (tmp_path / loader.dataset.data_prefix.img / image['file_name']).is_file()


@pytest.mark.parametrize(
    'spoil, message',
    [
        (lambda voc: (voc / 'ImageSets/Main/val.txt').unlink(), 'val.txt'),
        (lambda voc: (voc / 'Annotations/BloodImage_00007.xml').unlink(), 'BloodImage_00007.xml'),
        (
            lambda voc: annotate(voc, 'BloodImage_00001', [('cell', 1, 1, 9, 9)]),
            "BloodImage_00001.xml: unknown class 'cell'; known are RBC, WBC, Platelets",
        ),
    ],
)
def test_what_is_not_bccd_is_refused(voc, tmp_path, spoil, message):
    spoil(voc)
    assert message in refusal(run_tool, 'make_bccd', voc, tmp_path / 'out')
