"""Convert BCCD (blood cells, Pascal VOC) to COCO format, as configs/bccd reads it.

Takes the train and val splits of the public repository Shenggan/BCCD_Dataset (MIT licence).
"""

import argparse
import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

CLASSES = ('RBC', 'WBC', 'Platelets')


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('voc_dir', type=Path, help='its folder BCCD, with Annotations and so on')
    parser.add_argument('out_dir', type=Path, help='folder to write, for example data/bccd')
    return parser.parse_args()


def read_boxes(path):
    """(category_id, [x, y, width, height]) of each object, from VOC's corners as they stand."""
    for found in ElementTree.parse(path).iter('object'):
        name = found.findtext('name')
        if name not in CLASSES:
            raise ValueError(f'{path}: unknown class {name!r}; known are {", ".join(CLASSES)}')
        corners = (found.findtext(f'bndbox/{key}') for key in ('xmin', 'ymin', 'xmax', 'ymax'))
        left, top, right, bottom = map(float, corners)
        if right > left and bottom > top:
            yield CLASSES.index(name) + 1, [left, top, right - left, bottom - top]
        else:
            print(f'left out, a box without an area: {left, top, right, bottom} in {path}')


def convert(voc_dir, out_dir):
    for folder in ('images', 'annotations'):
        (out_dir / folder).mkdir(parents=True, exist_ok=True)
    categories = [dict(id=k, name=c, supercategory='cell') for k, c in enumerate(CLASSES, 1)]
    box_id = 0  # goes on from train to val
    for split in ('train', 'val'):
        images, boxes = [], []
        for name in (voc_dir / f'ImageSets/Main/{split}.txt').read_text().split():
            photo = voc_dir / f'JPEGImages/{name}.jpg'
            with Image.open(photo) as image:
                width, height = image.size
            shutil.copy(photo, out_dir / 'images')
            image_id = int(name.rpartition('_')[2])  # BloodImage_00123
            images.append(dict(id=image_id, file_name=photo.name, width=width, height=height))
            for category, box in read_boxes(voc_dir / f'Annotations/{name}.xml'):
                box_id += 1
                held = dict(id=box_id, image_id=image_id, category_id=category, bbox=box)
                boxes.append(dict(held, area=box[2] * box[3], iscrowd=0))
        coco = dict(images=images, annotations=boxes, categories=categories)
        (out_dir / f'annotations/{split}.json').write_text(json.dumps(coco))
        print(f'{split}: {len(images)} photographs, {len(boxes)} boxes')


def main():
    args = parse_args()
    try:
        convert(args.voc_dir, args.out_dir)
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise SystemExit(f'error: {error}') from None


if __name__ == '__main__':
    main()
