"""tools/make_bccd.py: the Pascal VOC files of BCCD as the COCO files that configs/bccd reads."""

import json

import pytest
from mmengine.config import Config
from PIL import Image
from pycocotools.coco import COCO
from small_detector import ROOT, run_tool

import mmpsbn  # noqa: F401

BOX = """
    <object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>
    </bndbox></object>"""
# The first objects of two of its files.
OBJECTS = {
    'BloodImage_00001': [('WBC', 68, 315, 286, 480), ('RBC', 346, 361, 446, 454)],
    'BloodImage_00007': [],
    'BloodImage_00000': [('WBC', 260, 177, 491, 376), ('Platelets', 1, 281, 21, 316)],
    'BloodImage_00002': [('RBC', 78, 336, 184, 435)],
}
SPLITS = dict(
    train=['BloodImage_00001', 'BloodImage_00007'],
    val=['BloodImage_00000'],
    test=['BloodImage_00002'],
)


@pytest.fixture
def voc(tmp_path):
    folder = tmp_path / 'BCCD'
    for part in ('Annotations', 'ImageSets/Main', 'JPEGImages'):
        (folder / part).mkdir(parents=True)
    for split, names in SPLITS.items():
        (folder / f'ImageSets/Main/{split}.txt').write_text('\n'.join(names) + '\n')
    for name, objects in OBJECTS.items():
        boxes = ''.join(BOX.format(*values) for values in objects)
        (folder / f'Annotations/{name}.xml').write_text(f'<annotation>{boxes}</annotation>')
        Image.new('RGB', (640, 480)).save(folder / f'JPEGImages/{name}.jpg')
    return folder


def test_both_splits_are_converted_and_the_test_split_is_left_out(voc, tmp_path, capsys):
    run_tool('make_bccd', voc, tmp_path / 'out')
    said = capsys.readouterr().out
    assert 'train: 2 photographs, 2 boxes\nval: 1 photographs, 2 boxes\n' in said
    read = {
        s: json.loads((tmp_path / f'out/annotations/{s}.json').read_text())
        for s in SPLITS
        if s != 'test'
    }
    assert read['train']['images'] == [
        dict(id=1, file_name='BloodImage_00001.jpg', width=640, height=480),
        dict(id=7, file_name='BloodImage_00007.jpg', width=640, height=480),
    ]
    # corners as they stand: no 1 is taken off, and box ids go on from train to val
    assert [
        (a['id'], a['image_id'], a['category_id'], a['bbox']) for a in read['train']['annotations']
    ] == [
        (1, 1, 2, [68, 315, 218, 165]),
        (2, 1, 1, [346, 361, 100, 93]),
    ]
    assert [
        (a['id'], a['category_id'], a['bbox'], a['area']) for a in read['val']['annotations']
    ] == [
        (3, 2, [260, 177, 231, 199], 45969),
        (4, 3, [1, 281, 20, 35], 700),
    ]
    assert sorted(p.stem for p in (tmp_path / 'out/images').iterdir()) == [
        'BloodImage_00000',
        'BloodImage_00001',
        'BloodImage_00007',
    ]


def test_the_files_are_those_the_config_reads(voc, tmp_path):
    cfg = Config.fromfile(str(ROOT / 'configs/bccd/retinanet_r18_bn_bccd.py'))
    run_tool('make_bccd', voc, tmp_path / 'out')
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        coco = COCO(str(tmp_path / 'out' / loader.dataset.ann_file))
        names = tuple(category['name'] for category in coco.loadCats(coco.getCatIds()))
        assert names == loader.dataset.metainfo.classes
        for image in coco.loadImgs(coco.getImgIds()):
            assert (
                tmp_path / 'out' / loader.dataset.data_prefix.img / image['file_name']
            ).is_file()


@pytest.mark.parametrize(
    'spoil, message',
    [
        (lambda voc: (voc / 'ImageSets/Main/val.txt').unlink(), 'val.txt'),
        (lambda voc: (voc / 'Annotations/BloodImage_00007.xml').unlink(), 'BloodImage_00007.xml'),
        (
            lambda voc: (voc / 'Annotations/BloodImage_00001.xml').write_text(
                f'<annotation>{BOX.format("cell", 1, 1, 9, 9)}</annotation>'
            ),
            "BloodImage_00001.xml: unknown class 'cell'; known are RBC, WBC, Platelets",
        ),
    ],
)
def test_what_is_not_bccd_is_refused(voc, tmp_path, spoil, message):
    spoil(voc)
    with pytest.raises(SystemExit) as refused:
        run_tool('make_bccd', voc, tmp_path / 'out')
    assert str(refused.value).startswith('error: ') and message in str(refused.value)


def test_a_box_without_an_area_is_left_out_and_named(voc, tmp_path, capsys):
    objects = BOX.format('RBC', 9, 1, 9, 9) + BOX.format('RBC', 1, 1, 9, 9)
    annotation = voc / 'Annotations/BloodImage_00007.xml'
    annotation.write_text(f'<annotation>{objects}</annotation>')
    run_tool('make_bccd', voc, tmp_path / 'out')
    said = capsys.readouterr().out
    assert f'left out, a box without an area: (9.0, 1.0, 9.0, 9.0) in {annotation}' in said
    assert 'train: 2 photographs, 3 boxes' in said
