"""What the experiments of the BN-only paper (Frankle et al., ICLR 2021) share."""

from collections.abc import Mapping
from typing import Any

from ..experiment import Options
from ..scales import length

CONFIG = 'cifar/resnet14_bn_cifar10_in_memory.py'
TRAINED = {  # row -> hooks
    'all': [],
    'BN': [dict(type='FreezeHook', train=['norm'])],
    'BN + output': [dict(type='FreezeHook', train=['norm', 'head.fc'])],
    'output': [dict(type='FreezeHook', train=['head.fc'])],
    '2 random a channel': [dict(type='FreezeHook', train=[], per_channel=2)],
}


def _training(epochs: int, batch_size: int, weight_decay: float, bfloat16: bool = False) -> Options:
    """The rate is divided by 10 after a half and after three quarters."""
    return length(epochs, batch_size=batch_size, bfloat16=bfloat16) | {
        'optim_wrapper.optimizer.weight_decay': weight_decay,
        'param_scheduler.milestones': [epochs // 2, epochs * 3 // 4],
    }


# small: S = 10 epochs * 157 steps * 0.1 * 2e-3 / 0.1 = 3.1 at the full rate, as the paper's 80
# epochs have with a decay of 1e-4; from 0.3 to 0.01 takes 3.4. Half of the test images, for each
# net is evaluated five times
_HALF = {f'{split}_dataloader.dataset.num_samples': 5_000 for split in ('val', 'test')}
_TINY = {'model.backbone.base_channels': 4, 'model.head.in_channels': 16}
SCALES = dict(
    smoke=_training(1, 32, 2e-3) | _TINY,
    small=_training(20, 64, 2e-3, bfloat16=True) | _HALF,
    paper=_training(160, 128, 1e-4),
)


def trained(hooks: list[Mapping[str, Any]]) -> Options:
    """Only what these hooks leave free."""
    return {'custom_hooks': [dict(type='SparsityHook'), *hooks]}
