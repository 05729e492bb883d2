"""BasicNet, the seven-convolution net of the implicit-sparsity paper."""

from math import sqrt

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from torch import nn

# Channels of C1-C7 by the paper's names of the widths (its table 6).
WIDTHS = {
    '64-1x': (64, 128, 128, 256, 256, 512, 512),
    '64-0.5x': (64, 64, 64, 128, 128, 256, 256),
    '32-0.25x': (32, 32, 32, 64, 64, 128, 128),
}
# Only read (mmengine copies init_cfg), so sharing them between calls is safe.
_NORM_CFG = dict(type='BN', requires_grad=True)
_ACT_CFG = dict(type='ReLU', inplace=True)
_INIT_CFG = [
    dict(type='Xavier', layer='Conv2d', gain=sqrt(2)),
    dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
]


@MODELS.register_module()
class BasicNet(BaseModule):
    """C1 (5x5) and C2-C7 (3x3), each with norm and activation; max pooling between widths.

    C1 - pool - C2 C3 - pool - C4 C5 - pool - C6 C7, stride 1 and same padding, pools 2x2.
    (N, 3, H, W) -> a tuple with one map, (N, channels of C7, H // 8, W // 8): 4x4 for CIFAR.

    The 5x5 of C1 is what the paper's 4,649,664 convolution weights ask for (3x3 gives 3,072 fewer).
    Where its figure 1 pools cannot be read from the text and changes no count: here, as in VGG,
    where the width doubles. Its heads [256][10], [256][100] and [512][256][200] are mmpretrain's
    ``GlobalAveragePooling`` and ``StackedLinearClsHead`` with ``norm_cfg=dict(type='BN1d')``.

    Args:
        width (str): '64-1x', '64-0.5x' or '32-0.25x'; C7 has 512, 256 or 128 channels.
        norm_cfg (dict, optional): as for mmcv's ``ConvModule``; None for no norm layers, and then
            the convolutions have biases.
        act_cfg (dict, optional): likewise; None for a linear net.
        init_cfg (dict | list[dict], optional): as for mmengine's ``BaseModule``; by default
            Xavier's with the gain of a ReLU.

    Raises:
        ValueError: ``width`` is none of the three.

    Source: Mehta et al., On Implicit Filter Level Sparsity in CNNs, CVPR 2019, figure 1, table 6.
    """

    def __init__(
        self,
        width='64-1x',
        norm_cfg=_NORM_CFG,
        act_cfg=_ACT_CFG,
        init_cfg=_INIT_CFG,
    ):
        super().__init__(init_cfg)
        if width not in WIDTHS:
            raise ValueError(f'width must be one of {", ".join(WIDTHS)}, got {width!r}')
        layers, in_channels = [], 3
        for number, out_channels in enumerate(WIDTHS[width], 1):
            if number in (2, 4, 6):
                layers.append(nn.MaxPool2d(2))
            kernel_size = 5 if number == 1 else 3
            layers.append(
                ConvModule(
                    in_channels,
                    out_channels,
                    kernel_size,
                    padding=kernel_size // 2,
                    norm_cfg=norm_cfg,
                    act_cfg=act_cfg,
                )
            )
            in_channels = out_channels
        self.features = nn.Sequential(*layers)

    def forward(self, x):
        return (self.features(x),)
