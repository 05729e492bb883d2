"""mmpretrain's ResNet for CIFAR with a choice of activation, which its own lacks.

Named in ``custom_imports`` where it is used: it imports all of mmpretrain's models, two seconds.
"""

from mmcv.cnn import build_activation_layer
from mmpretrain.models.backbones import ResNet_CIFAR
from mmpretrain.registry import MODELS


@MODELS.register_module()
class ActivationResNetCIFAR(ResNet_CIFAR):
    """``ResNet_CIFAR`` with another activation in all places of its ReLU; the names of the layers,
    and so the keys of its checkpoints, are the same.

    Args:
        act_cfg (dict): as for mmcv's ``build_activation_layer``; DemP figure 1 has
            ``dict(type='LeakyReLU', negative_slope=0.05)`` and ``dict(type='SiLU')``, Swish with
            beta = 1.
        kwargs: of ``ResNet_CIFAR``.
    """

    def __init__(self, act_cfg, **kwargs):
        self._act_cfg = act_cfg  # read while the base class builds the layers
        super().__init__(**kwargs)

    def _make_stem_layer(self, in_channels, base_channels):
        super()._make_stem_layer(in_channels, base_channels)
        self.relu = build_activation_layer(self._act_cfg)

    def make_res_layer(self, **kwargs):
        return super().make_res_layer(**kwargs, act_cfg=self._act_cfg)
