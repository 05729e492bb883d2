"""What the experiments of several papers share."""

from typing import Any

from ..experiment import Options
from ..measure import label_of
from ..pictures import over_steps
from ..tables import ArmTable

LR, DECAY = 'optim_wrapper.optimizer.lr', 'optim_wrapper.optimizer.weight_decay'
# of a VGG at smoke, which knows no width
FEW = {f'{split}_dataloader.dataset.num_samples': 20 for split in ('train', 'val', 'test')}
# of the detector of configs/quickstart
NARROW = {
    'model.backbone.base_channels': 8,
    'model.neck.in_channels': [16, 32],
    'model.neck.out_channels': 16,
    'model.bbox_head.in_channels': 16,
    'model.bbox_head.feat_channels': 16,
}
NOTHING_GOES = dict(min_channels=10_000)  # of DemPHook's prune
_FIRST_STEPS = 11  # one cut takes place after these, since a budget looks at ten steps before it


def width(channels: int) -> Options:
    """Of a ResNet for CIFAR-10 with three stages, by the channels of the first."""
    return {'model.backbone.base_channels': channels, 'model.head.in_channels': 4 * channels}


def cut_once(score: str, share: float, iterations: int) -> Options:
    """DemPHook with a single cut, as early as there is one in so many iterations, to a ``share`` of
    the MACs, and without what the hook can do besides: a trained net is trained on."""
    end = round(_FIRST_STEPS / iterations + 5e-5, 4)
    budget = dict(flops=share, score=score, cuts=1, begin=0.0, end=end, reconstruct=False)
    return dict(type='DemPHook', budget=budget)


def by_epoch(corner: str, *paths: str) -> dict[str, Any]:
    """Table, of the last epoch, and panels of percentiles over the channels of a layer."""
    ends = [f'{path}[p{at}]' for path in paths for at in (5, 50, 95)]
    return dict(
        table=ArmTable(corner, {label_of(end)[0]: f'{{{end}:.3f}}' for end in ends}),
        panels=over_steps('epoch', *(end for end in ends if 'p50' not in end)),
    )
