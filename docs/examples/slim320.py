"""The face detector slim-320, written down from the names and shapes of its published weights.

Weights: version-slim-320.pth of the public repository
Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB (MIT licence).
"""

from pathlib import Path

import cv2
import numpy as np
import skimage
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad
from torchvision.ops import box_convert, nms

WIDTH, HEIGHT = 320, 240
# of each level: pixels a step, sides of its square anchors in pixels
ANCHORS = {8: (10, 16, 24), 16: (32, 48), 32: (64, 96), 64: (128, 192, 256)}


def conv_bn_relu(c_in: int, c_out: int, *, kernel=3, stride=1, groups=1) -> list[nn.Module]:
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(c_out), nn.ReLU()]


def block(c_in: int, c_out: int, stride: int) -> nn.Module:
    depthwise = conv_bn_relu(c_in, c_in, stride=stride, groups=c_in)
    return nn.Sequential(*depthwise, *conv_bn_relu(c_in, c_out, kernel=1))


def separable(c_in: int, c_out: int, stride=1) -> nn.Module:
    depthwise = nn.Conv2d(c_in, c_in, 3, stride, 1, groups=c_in)
    return nn.Sequential(depthwise, nn.ReLU(), nn.Conv2d(c_in, c_out, 1))


class Slim320(nn.Module):
    """Images (N, 3, 240, 320), (RGB - 127) / 128 -> class scores (N, 4420, 2) and box offsets
    (N, 4420, 4)."""

    def __init__(self):
        super().__init__()
        widths = [16, 32, 32, 32, 64, 64, 64, 64, 128, 128, 128, 256, 256]
        strides = [1, 2, 1, 2, 1, 1, 1, 2, 1, 1, 2, 1]
        stem = nn.Sequential(*conv_bn_relu(3, 16, stride=2))
        self.base_net = nn.Sequential(stem, *map(block, widths, widths[1:], strides))
        extra = [nn.Conv2d(256, 64, 1), nn.ReLU(), separable(64, 256, stride=2), nn.ReLU()]
        self.extras = nn.ModuleList([nn.Sequential(*extra)])
        self.classification_headers = self._heads(values=2)
        self.regression_headers = self._heads(values=4)

    def _heads(self, values: int) -> nn.ModuleList:
        *outs, last = (len(sides) * values for sides in ANCHORS.values())
        heads = map(separable, (64, 128, 256), outs)
        return nn.ModuleList([*heads, nn.Conv2d(256, last, 3, padding=1)])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        levels = self.base_net[:8], self.base_net[8:11], self.base_net[11:], self.extras[0]
        heads = zip(self.classification_headers, self.regression_headers)
        scores, offsets, x = [], [], images
        for level, (score, offset) in zip(levels, heads):
            x = level(x)
            scores.append(score(x).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 2)))
            offsets.append(offset(x).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)))
        return torch.cat(scores, 1), torch.cat(offsets, 1)


def anchors() -> Tensor:
    """Centre x, y, width, height as fractions of the image, shape (4420, 4)."""
    found = [
        ((x + 0.5) * step / WIDTH, (y + 0.5) * step / HEIGHT, side / WIDTH, side / HEIGHT)
        for step, sides in ANCHORS.items()
        for y in range(-(-HEIGHT // step))
        for x in range(-(-WIDTH // step))
        for side in sides
    ]
    return torch.tensor(found, dtype=torch.float64).clamp(0, 1)


def faces(scores: Tensor, offsets: Tensor, *, threshold=0.7, iou=0.3) -> tuple[Tensor, Tensor]:
    """The faces of one image, the surest first: boxes x1, y1, x2, y2 in pixels, shape (M, 4), and
    probabilities, shape (M,), from its scores (4420, 2) and offsets (4420, 4)."""
    prior = anchors().to(offsets)
    centre = prior[:, :2] + 0.1 * offsets[:, :2] * prior[:, 2:]
    size = prior[:, 2:] * (0.2 * offsets[:, 2:]).exp()
    boxes = box_convert(torch.cat([centre, size], 1), 'cxcywh', 'xyxy')
    boxes = boxes * boxes.new_tensor([WIDTH, HEIGHT] * 2)
    probabilities = scores.softmax(-1)[:, 1]
    sure = probabilities > threshold
    boxes, probabilities = boxes[sure], probabilities[sure]
    kept = nms(boxes, probabilities, iou)
    return boxes[kept], probabilities[kept]


def read_image(path: Path) -> Tensor:
    """A photograph as the detector takes it, shape (1, 3, 240, 320)."""
    image = cv2.resize(cv2.imread(str(path)), (WIDTH, HEIGHT))[:, :, ::-1].copy()
    return (torch.from_numpy(image).permute(2, 0, 1).float()[None] - 127) / 128


def crowd(portraits: Tensor, side: int) -> Tensor:
    """An image full of portraits, side pixels each, shape (1, 3, 240, 320); portraits: grey,
    shape (N, 25, 25), in [0, 1]."""
    rows, columns = HEIGHT // side, WIDTH // side
    tiles = interpolate(portraits[: rows * columns, None], size=(side, side), mode='bilinear')
    tiles = tiles.reshape(rows, columns, side, side).transpose(1, 2)
    image = tiles.reshape(1, 1, rows * side, columns * side).expand(-1, 3, -1, -1)
    space = (0, WIDTH - columns * side, 0, HEIGHT - rows * side)
    return (pad(image, space) * 255 - 127) / 128


def photographs() -> list[tuple[Tensor, None]]:
    """The pictures that ship inside scikit-image, and crowds of its 100 portraits; each with no
    label, as ``mmpsbn report --data`` takes them."""
    folder = Path(skimage.data.__file__).parent
    images = [read_image(path) for path in sorted(folder.glob('*.[jp][pn]g'))]
    portraits = torch.from_numpy(np.load(folder / 'lfw_subset.npy')[:100]).float()
    images += [crowd(portraits, side) for side in (27, 40, 60, 80, 107)]
    return [(image, None) for image in images]
