"""The models of pruned_speed.py, and the same channels removed by mmpsbn and by Torch-Pruning."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import timing
import torch_pruning as tp
import torchvision
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from mmpsbn.pruning import apply_plan, trace_channel_graph
from mmpsbn.pruning.cost import count_positions, model_cost
from mmpsbn.pruning.forward import call_with
from mmpsbn.pruning.graph import ChannelGraph
from mmpsbn.pruning.plan import plan_from_keep_masks
from mmpsbn.pruning.ranking import keep_masks_for_budget, rank_channels

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


def resnet18_cifar() -> nn.Module:
    model = torchvision.models.resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)  # 32 pixels stay 32
    model.maxpool = nn.Identity()
    return model


class VGG16(nn.Module):
    """The convolutions of VGG-16-BN and one linear layer, as is usual at 32x32."""

    def __init__(self):
        super().__init__()
        self.features = torchvision.models.vgg16_bn().features
        self.classifier = nn.Linear(512, 10)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


def retinanet_r50() -> nn.Module:
    init_default_scope('mmdet')
    config = Config.fromfile(CONFIGS / 'retinanet/retinanet_r50_bn_demp.py').model
    config.backbone.init_cfg = None  # no download
    # a frozen stem would make the backward pass less than twice the MACs of the forward pass
    config.backbone.frozen_stages = -1
    return MODELS.build(config)


@dataclass(frozen=True)
class Case:
    build: Callable[[], nn.Module]
    side: int
    batch: int


CASES = {
    'resnet18': Case(resnet18_cifar, side=32, batch=128),
    'vgg16': Case(VGG16, side=32, batch=128),
    'resnet50': Case(torchvision.models.resnet50, side=224, batch=8),
    'retinanet': Case(retinanet_r50, side=320, batch=2),
}


def weights_of(model: nn.Module) -> int:
    """Number of weights of the conv and linear layers."""
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))


def widths_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


class Pruning:
    """A dense model, traced once, of which pruned copies are made.

    Attributes:
        trace_seconds: of the trace, with a forward pass of one image.
    """

    def __init__(self, model: nn.Module, image: Tensor, *, criterion: str, seed: int):
        self.model, self.image = model, image
        self.positions = count_positions(model, image, call_with)
        start = timing.clock()
        self.graph: ChannelGraph = trace_channel_graph(model, image, call_with)
        self.trace_seconds = timing.clock() - start
        self.scores = rank_channels(model, self.graph.groups, criterion=criterion, seed=seed)

    def macs(self, model: nn.Module) -> int:
        return model_cost(model, self.positions).macs

    def keep_masks(self, *, weight_sparsity: float, round_to: int) -> dict[str, Tensor]:
        masks, _ = keep_masks_for_budget(
            self.model,
            self.graph.groups,
            self.scores,
            self.positions,
            measure='params',
            target=(1 - weight_sparsity) * model_cost(self.model, self.positions).params,
            min_channels=1,
            round_to=round_to,
        )
        return masks

    def cut(self, keep_masks: Mapping[str, Tensor]) -> tuple[nn.Module, float]:
        """A pruned copy, and the seconds of its surgery (without trace and verification)."""
        model = copy.deepcopy(self.model)
        start = timing.clock()
        apply_plan(model, plan_from_keep_masks(model, self.graph.groups, keep_masks))
        return model, timing.clock() - start

    def cut_by_torch_pruning(
        self, keep_masks: Mapping[str, Tensor]
    ) -> tuple[nn.Module, float, float]:
        """The same channels removed by Torch-Pruning; seconds of its trace and its surgery."""
        model = copy.deepcopy(self.model)
        start = timing.clock()
        graph = tp.DependencyGraph().build_dependency(model, example_inputs=self.image)
        traced = timing.clock()
        for name, keep_mask in keep_masks.items():
            writer = self.graph.groups[name].writers[0]
            gone = [i for i, c in zip(writer.index, writer.channel) if not keep_mask[c]]
            layer = model.get_submodule(writer.layer)
            remove = (
                tp.prune_linear_out_channels
                if isinstance(layer, nn.Linear)
                else tp.prune_conv_out_channels
            )
            if gone:
                graph.get_pruning_group(layer, remove, idxs=gone).prune()
        return model, traced - start, timing.clock() - traced
