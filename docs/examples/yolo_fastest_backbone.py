"""The ShuffleNetV2 0.5x of dog-qiuqiu/Yolo-FastestV2, whose ImageNet weights it loads."""

import torch
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn


def _layers(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list:
    """Convolution, norm and, but for depthwise ones, ReLU."""
    padding = kernel // 2
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    layers = [conv, nn.BatchNorm2d(outputs)]
    return layers if groups > 1 else [*layers, nn.ReLU(inplace=True)]


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        middle = outputs // 2
        self.branch_main = nn.Sequential(
            *_layers(inputs, middle, 1),
            *_layers(middle, middle, 3, stride=stride, groups=middle),
            *_layers(middle, outputs - inputs, 1),
        )
        self.branch_proj = None
        if stride == 2:
            self.branch_proj = nn.Sequential(
                *_layers(inputs, inputs, 3, stride=2, groups=inputs), *_layers(inputs, inputs, 1)
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.branch_proj is not None:
            return torch.cat((self.branch_proj(x), self.branch_main(x)), 1)
        batch, channels, height, width = x.shape
        pairs = x.view(batch, channels // 2, 2, height, width).transpose(1, 2)
        left, right = pairs.reshape(batch, -1, height, width).chunk(2, 1)
        return torch.cat((left, self.branch_main(right)), 1)


@MODELS.register_module()
class YoloFastestBackbone(BaseModule):
    """Features of 48, 96 and 192 channels at strides 8, 16 and 32, of BGR / 255."""

    def __init__(self, init_cfg: dict | None = None):
        super().__init__(init_cfg)
        self.first_conv = nn.Sequential(*_layers(3, 24, 3, stride=2))
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = 24
        for stage, outputs, blocks in ((2, 48, 4), (3, 96, 8), (4, 192, 4)):
            own = [Block(inputs, outputs, 2)]
            own += [Block(outputs // 2, outputs, 1) for _ in range(blocks - 1)]
            setattr(self, f'stage{stage}', nn.Sequential(*own))
            inputs = outputs

    def forward(self, x: Tensor) -> list[Tensor]:
        x, features = self.maxpool(self.first_conv(x)), []
        for stage in (self.stage2, self.stage3, self.stage4):
            x = stage(x)
            features.append(x)
        return features
