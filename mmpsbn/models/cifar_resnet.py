"""ResNets for CIFAR (He et al. 2015, section 4.2), also wide ones.

mmpretrain lacks them: its ``ResNet_CIFAR`` is the ImageNet net with a small stem.
"""

import torch.nn as nn
import torch.nn.functional as F
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS

# Only read (mmengine copies init_cfg), so sharing them between calls is safe.
_NORM_CFG = dict(type='BN', requires_grad=True)
_ACT_CFG = dict(type='ReLU', inplace=True)
_INIT_CFG = [
    dict(type='Kaiming', layer='Conv2d', mode='fan_out', nonlinearity='relu'),
    dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
]

# For mmengine's ``load_checkpoint(model, file, revise_keys=PUBLISHED_KEYS)``: the names in the
# checkpoints of akamaster/pytorch_resnet_cifar10 become those of an ``ImageClassifier`` with a
# CIFARResNet and a LinearClsHead.
PUBLISHED_KEYS = [(r'^module\.', ''), (r'^linear\.', 'head.fc.'), (r'^(?!head\.)', 'backbone.')]


def _build_norm(norm_cfg, channels, postfix=''):
    """mmcv's name for the layer, and the layer; an identity where there is no ``norm_cfg``."""
    if norm_cfg is None:
        return f'norm{postfix}', nn.Identity()
    return build_norm_layer(norm_cfg, channels, postfix)


def _build_act(act_cfg):
    return nn.Identity() if act_cfg is None else build_activation_layer(act_cfg)


class ZeroPadShortcut(nn.Module):
    """Option A: every ``stride``-th pixel, and zero channels added evenly on both sides.

    No parameters, so no state-dict keys.
    (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels, out_channels, stride):
        super().__init__()
        self.stride = stride
        missing = out_channels - in_channels
        self.pad_channels = (missing // 2, missing - missing // 2)  # before, after

    def forward(self, x):
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.pad_channels))


class CIFARBasicBlock(BaseModule):
    """conv3x3 - norm - act - conv3x3 - norm, plus the shortcut, then act.

    (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels, out_channels, stride, shortcut, norm_cfg, act_cfg):
        super().__init__()
        bias = norm_cfg is None
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=bias)
        self.norm1_name, norm1 = _build_norm(norm_cfg, out_channels, postfix=1)
        self.add_module(self.norm1_name, norm1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=bias)
        self.norm2_name, norm2 = _build_norm(norm_cfg, out_channels, postfix=2)
        self.add_module(self.norm2_name, norm2)
        self.act = _build_act(act_cfg)
        if stride == 1 and in_channels == out_channels:
            self.downsample = None
        elif shortcut == 'A':
            self.downsample = ZeroPadShortcut(in_channels, out_channels, stride)
        else:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=bias),
                _build_norm(norm_cfg, out_channels)[1],
            )

    def forward(self, x):
        out = self.act(getattr(self, self.norm1_name)(self.conv1(x)))
        out = getattr(self, self.norm2_name)(self.conv2(out))
        return self.act(out + (x if self.downsample is None else self.downsample(x)))


@MODELS.register_module()
class CIFARResNet(BaseModule):
    """ResNet-(6n + 2) for 32x32 pictures.

    A 3x3 stem, then 3 stages of n basic blocks with 1x, 2x, 4x ``base_channels`` at stride 1, 2, 4.
    (N, 3, H, W) -> a tuple with one map, (N, 4 * base_channels, ceil(ceil(H / 2) / 2), ...): 8x8
    for CIFAR.

    With BatchNorm the layers are named as in the checkpoints of akamaster/pytorch_resnet_cifar10
    (``conv1, bn1, layer{1,2,3}.{i}.{conv1,bn1,conv2,bn2}``); ``shortcut='A'`` computes the same
    function.

    Args:
        depth (int): 6n + 2 with n >= 1: 8, 14, 20, 32, 44, 56, 110, ..., 1202.
        shortcut (str): 'A' pads missing channels with zeros (the paper's choice for CIFAR, no
            parameters); 'B' uses conv1x1 + norm (that of Frankle et al., arXiv 2003.00152).
        base_channels (int): channels of the first stage, >= 1; 16 * k for WRN-depth-k of Frankle et
            al.
        norm_cfg (dict, optional): as for mmcv's ``build_norm_layer``;
            ``dict(type='psBN', alpha=0.1)`` for post-shifted BN; None for no norm layers, and then
            the convolutions have biases.
        act_cfg (dict, optional): as for mmcv's ``build_activation_layer``; None for a linear net.
        init_cfg (dict | list[dict], optional): as for mmengine's ``BaseModule``.

    Raises:
        ValueError: ``depth`` is not 6n + 2, ``shortcut`` is neither 'A' nor 'B', or
            ``base_channels`` < 1.

    Source: He et al., Deep Residual Learning for Image Recognition, arXiv 1512.03385, section 4.2.
    """

    def __init__(
        self,
        depth=20,
        shortcut='A',
        base_channels=16,
        norm_cfg=_NORM_CFG,
        act_cfg=_ACT_CFG,
        init_cfg=_INIT_CFG,
    ):
        super().__init__(init_cfg)
        if isinstance(depth, bool) or not isinstance(depth, int) or depth < 8 or (depth - 2) % 6:
            raise ValueError(
                'depth must be 6n + 2 with an integer n >= 1 (8, 14, 20, 32, 44, 56, 110, ...), '
                f'got {depth!r}'
            )
        if shortcut not in ('A', 'B'):
            raise ValueError(
                "shortcut must be 'A' (zero-padded channels) or 'B' (conv1x1 + norm), "
                f'got {shortcut!r}'
            )
        if base_channels < 1:
            raise ValueError(f'base_channels must be >= 1, got {base_channels}')
        self.conv1 = nn.Conv2d(3, base_channels, 3, padding=1, bias=norm_cfg is None)
        self.norm1_name, norm1 = _build_norm(norm_cfg, base_channels, postfix=1)
        self.add_module(self.norm1_name, norm1)
        self.act = _build_act(act_cfg)
        in_channels, num_blocks = base_channels, (depth - 2) // 6
        for stage in (1, 2, 3):
            out_channels = base_channels * 2 ** (stage - 1)
            blocks = []
            for index in range(num_blocks):
                stride = 2 if stage > 1 and index == 0 else 1
                blocks.append(
                    CIFARBasicBlock(in_channels, out_channels, stride, shortcut, norm_cfg, act_cfg)
                )
                in_channels = out_channels
            self.add_module(f'layer{stage}', nn.Sequential(*blocks))

    def forward(self, x):
        x = self.act(getattr(self, self.norm1_name)(self.conv1(x)))
        return (self.layer3(self.layer2(self.layer1(x))),)
