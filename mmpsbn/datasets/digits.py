"""A detection data set made of what Python packages already carry.

So a first run needs no download. Handwritten digits (``sklearn.datasets.load_digits``: 1,797 grey
8x8 images, 10 classes) are enlarged, coloured and pasted at several scales on crops of photographs
that lie inside the scikit-image and scikit-learn wheels. Train and val share neither a digit nor a
photograph.
"""

import functools
import importlib.util
import json
import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')

# (package, file inside it). Files are read by path: `skimage.data.<name>()` would try a download
# for what is not in the wheel. Photographs with printed figures (coins, clock, text, page) stay
# out: a detector would be right to find digits there. Val holds only CC0 / public-domain pictures,
# because pictures of val results get published (china and flower are CC BY).
BACKGROUNDS = {
    'train': (
        ('sklearn', 'datasets/images/china.jpg'),
        ('sklearn', 'datasets/images/flower.jpg'),
        ('skimage', 'data/astronaut.png'),
        ('skimage', 'data/camera.png'),
        ('skimage', 'data/hubble_deep_field.jpg'),
        ('skimage', 'data/ihc.png'),
        ('skimage', 'data/retina.jpg'),
        ('skimage', 'data/brick.png'),
        ('skimage', 'data/grass.png'),
    ),
    'val': (
        ('skimage', 'data/chelsea.png'),
        ('skimage', 'data/coffee.png'),
        ('skimage', 'data/rocket.jpg'),
        ('skimage', 'data/gravel.png'),
    ),
}
# Of each class's digits, in file order: that order follows the writers, so most val writers are
# new to the net.
TRAIN_SHARE = 0.75
SETTINGS_FILE = 'digits_settings.json'
FORMAT_VERSION = 1  # raise it when the same settings would give other files

_DIGITS_PER_IMAGE = (2, 6)  # both ends included
# Of the enlarged digit, drawn log-uniformly; images below 80 px cap it at 0.9 of their shorter
# side.
_HEIGHT_PX = (20.0, 72.0)
_MIN_CONTRAST = 70.0  # grey levels (of 255) between a digit's colour and the mean below it
_MAX_OVERLAP = 0.1  # intersection / smaller box; an upper bound of the IoU too
_JPEG = dict(format='JPEG', quality=92, subsampling=0, optimize=False)


def write_digits_dataset(out_dir, *, num_train, num_val, image_size, seed):
    """Write the digits in COCO format below ``out_dir`` and return that folder as a ``Path``.

    Layout: ``train/000000.jpg ...``, ``val/...``, ``annotations/train.json``,
    ``annotations/val.json`` and ``digits_settings.json``. Boxes are ``[x, y, width, height]`` in
    pixels, tight on the ink (opacity >= 1/2), inside the image, and no two of one image share more
    than a tenth of the smaller one. An image holds 2 to 6 digits (fewer where no room is left,
    never none), 20 to 72 px high. Each annotation also says which digit it is (``digit_index``, a
    row of ``load_digits``), each image on which photograph (``background``).

    The files are a function of the settings (and of the versions of Pillow and NumPy): image ``i``
    of a split depends on ``seed`` and ``i`` alone, so a larger set begins with the smaller one.
    Which digits and photographs belong to which split does not depend on the seed.

    The folder appears complete or not at all: it is built beside ``out_dir`` and renamed. A
    complete one with the same settings is reused.

    Args:
        out_dir (str | Path): the folder to make; it may exist if it is empty or holds this very
            data set.
        num_train (int): train images, >= 1.
        num_val (int): val images, >= 1.
        image_size (tuple[int, int]): (width, height) in pixels, each in 48..299.
        seed (int): >= 0.

    Raises:
        ValueError: an argument out of range; ``out_dir`` holds something else or other settings
            (it is left as it is).
        ModuleNotFoundError: scikit-image or scikit-learn is not installed.
    """
    out_dir = Path(out_dir).absolute()
    settings = _check_settings(num_train, num_val, image_size, seed)
    if _is_reusable(out_dir, settings):
        return out_dir
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    # beside the target: on the same file system the rename is atomic
    with tempfile.TemporaryDirectory(dir=out_dir.parent, prefix=f'.{out_dir.name}.') as folder:
        building = Path(folder, 'set')
        for split, num_images in (('train', num_train), ('val', num_val)):
            _write_split(building, split, num_images, tuple(settings['image_size']), seed)
        (building / SETTINGS_FILE).write_text(json.dumps(settings, indent=1) + '\n')
        try:
            os.replace(building, out_dir)  # also over an empty folder
        except OSError:
            if not _is_reusable(out_dir, settings):  # or another process was faster
                raise
    return out_dir


def _check_settings(num_train, num_val, image_size, seed):
    counts = dict(num_train=num_train, num_val=num_val)
    for (name, value), least in zip((counts | dict(seed=seed)).items(), (1, 1, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f'{name} must be an integer >= {least}, got {value!r}')
    image_size = list(image_size)
    if len(image_size) != 2 or not all(
        isinstance(side, int) and 48 <= side < 300 for side in image_size
    ):
        raise ValueError(
            'image_size must be (width, height) with integers from 48 to 299 px, '
            f'got {tuple(image_size)}'
        )
    return dict(format_version=FORMAT_VERSION, **counts, image_size=image_size, seed=seed)


def _is_reusable(out_dir, settings):
    """True: the set with these settings lies there. False: nothing does. Else an error."""
    if not out_dir.exists() or (out_dir.is_dir() and not any(out_dir.iterdir())):
        return False
    settings_path = out_dir / SETTINGS_FILE
    if not settings_path.is_file():
        raise ValueError(
            f'{out_dir} exists and is not a digits data set (no {SETTINGS_FILE}); '
            'name another folder or remove this one'
        )
    found = json.loads(settings_path.read_text())
    different = [
        f'{name} {found.get(name)} (asked for {value})'
        for name, value in settings.items()
        if found.get(name) != value
    ]
    if different:
        raise ValueError(
            f'{out_dir} holds a digits data set with {", ".join(different)}; '
            'name another folder, or remove this one to have it made again'
        )
    return True


def _write_split(root, split, num_images, image_size, seed):
    (root / split).mkdir(parents=True)
    (root / 'annotations').mkdir(exist_ok=True)
    photographs = load_backgrounds(split)  # first: it says which package to install
    digits, labels = load_split_digits(split)
    images, annotations = [], []
    for image_id in range(num_images):
        # The second word of the seed keeps the splits' streams apart, the third makes an image
        # independent of those before it.
        rng = np.random.default_rng([seed, int(split == 'val'), image_id])
        background = list(photographs)[rng.integers(len(photographs))]
        pixels, boxes, rows = _compose_image(rng, photographs[background], digits, image_size)
        file_name = f'{image_id:06d}.jpg'
        Image.fromarray(pixels).save(root / split / file_name, **_JPEG)
        image = dict(id=image_id, file_name=file_name, width=image_size[0], height=image_size[1])
        images.append(dict(image, license=1, background=background))
        for box, row in zip(boxes, rows):
            held = dict(id=len(annotations) + 1, image_id=image_id, category_id=labels[row] + 1)
            held |= dict(iscrowd=0, bbox=box, area=box[2] * box[3], digit_index=row)
            annotations.append(held)
    content = dict(
        licenses=[
            dict(
                id=1,
                name='photographs: as in scikit-image (CC0 or public domain) and scikit-learn '
                '(china, flower: CC BY 2.0); digits: UCI optdigits, CC BY 4.0',
                url='',
            )
        ],
        categories=[dict(id=k, name=c, supercategory='digit') for k, c in enumerate(CLASSES, 1)],
        images=images,
        annotations=annotations,
    )
    (root / 'annotations' / f'{split}.json').write_text(json.dumps(content))


@functools.cache
def load_split_digits(split):
    """The digits of ``'train'`` or ``'val'``, by their row of load_digits.

    {row: float32 (8, 8) in 0..1} and {row: label 0..9}.
    """
    from sklearn.datasets import load_digits  # a second to import, and only generation needs it

    bundle = load_digits()
    digits, labels = {}, {}
    for label in range(10):
        rows = np.flatnonzero(bundle.target == label)
        num_train = int(TRAIN_SHARE * len(rows))
        for row in rows[:num_train] if split == 'train' else rows[num_train:]:
            digits[int(row)] = (bundle.images[row] / 16.0).astype(np.float32)
            labels[int(row)] = label
    return digits, labels


def load_backgrounds(split):
    """The photographs of ``'train'`` or ``'val'``: {file name: PIL image, RGB}."""
    photographs = {}
    for package, inner_path in BACKGROUNDS[split]:
        spec = importlib.util.find_spec(package)
        if spec is None:
            distribution = dict(skimage='scikit-image', sklearn='scikit-learn')[package]
            raise ModuleNotFoundError(
                f'the digits data set needs {distribution}; '
                f'install it with: pip install {distribution}'
            )
        path = Path(spec.origin).parent / inner_path
        with Image.open(path) as image:
            photographs[path.name] = image.convert('RGB')
    return photographs


def _compose_image(rng, photograph, digits, image_size):
    """One picture: its pixels, the digits' boxes and their rows of load_digits.

    The pixels are (height, width, 3) uint8, a box is [x, y, width, height] in px.
    """
    canvas = _crop_background(rng, photograph, image_size)
    rows_to_draw_from = np.array(sorted(digits))
    boxes, rows = [], []
    num_digits = rng.integers(_DIGITS_PER_IMAGE[0], _DIGITS_PER_IMAGE[1] + 1)
    for _ in range(num_digits):
        row = int(rng.choice(rows_to_draw_from))
        opacity = _enlarge_digit(rng, digits[row], image_size)
        box = _find_place(rng, opacity.shape, image_size, boxes)
        if box is None:
            continue
        _paint(rng, canvas, opacity, box)
        boxes.append(box)
        rows.append(row)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8), boxes, rows


def _crop_background(rng, photograph, image_size):
    """A crop with the image's aspect ratio, 0.4 to 1 of the largest that fits.

    float64 (height, width, 3) in 0..255, in an array of its own.
    """
    width, height = image_size
    scale = min(photograph.width / width, photograph.height / height) * rng.uniform(0.4, 1.0)
    crop_width, crop_height = width * scale, height * scale
    left = rng.uniform(0, photograph.width - crop_width)
    top = rng.uniform(0, photograph.height - crop_height)
    crop = photograph.resize(
        image_size, Image.BICUBIC, box=(left, top, left + crop_width, top + crop_height)
    )
    canvas = np.asarray(crop, dtype=np.float64)
    if rng.random() < 0.5:
        canvas = canvas[:, ::-1]
    # The product is a new array: asarray's view of the PIL image is read-only.
    return canvas * rng.uniform(0.7, 1.1)


def _enlarge_digit(rng, digit, image_size):
    """Opacity of the enlarged digit, (height, width) in 0..1.

    Cut so that every border row and column holds ink (opacity >= 1/2).
    """
    tallest = min(_HEIGHT_PX[1], 0.9 * min(image_size))
    height = np.exp(rng.uniform(np.log(_HEIGHT_PX[0]), np.log(tallest)))
    width = min(height * rng.uniform(0.8, 1.2), tallest)
    # The ring of zeros keeps strokes that touch the 8x8 border from being cut flat.
    padded = Image.fromarray(np.pad(digit, 1))
    image = padded.resize((int(round(width * 10 / 8)), int(round(height * 10 / 8))), Image.BICUBIC)
    image = image.rotate(rng.uniform(-12.0, 12.0), Image.BICUBIC)
    # Steep around 0.48, so that an enlarged stroke has an edge instead of a haze and "where the ink
    # ends" is well defined.
    opacity = np.clip((np.asarray(image, dtype=np.float64) - 0.3) / 0.35, 0.0, 1.0)
    ink = opacity >= 0.5
    ink_rows, ink_columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    return opacity[ink_rows[0] : ink_rows[-1] + 1, ink_columns[0] : ink_columns[-1] + 1]


def _find_place(rng, shape, image_size, boxes):
    """A box [x, y, width, height] in px inside the image; None after 50 tries.

    It overlaps no other by more than ``_MAX_OVERLAP``.
    """
    height, width = shape
    for _ in range(50):
        x = int(rng.integers(0, image_size[0] - width + 1))
        y = int(rng.integers(0, image_size[1] - height + 1))
        box = [x, y, width, height]
        if all(_overlap(box, other) <= _MAX_OVERLAP for other in boxes):
            return box
    return None


def _overlap(box, other):
    """Intersection over the smaller area."""
    width = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    height = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    return max(width, 0) * max(height, 0) / min(box[2] * box[3], other[2] * other[3])


def _paint(rng, canvas, opacity, box):
    """Blend a digit into the canvas in place, in a random colour that stands out from it."""
    x, y, width, height = box
    patch = canvas[y : y + height, x : x + width]
    to_grey = np.array([0.299, 0.587, 0.114])
    grey_below = patch.mean((0, 1)) @ to_grey
    colour = rng.uniform(0.0, 255.0, 3)
    while abs(colour @ to_grey - grey_below) < _MIN_CONTRAST:
        colour = rng.uniform(0.0, 255.0, 3)
    alpha = (opacity * rng.uniform(0.8, 1.0))[..., None]
    patch[...] = (1 - alpha) * patch + alpha * colour
