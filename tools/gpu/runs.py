"""Short trainings that are the same on any device."""

import itertools
import logging
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmpretrain.models import ResNet_CIFAR
from mmpretrain.models.backbones.resnet import BasicBlock
from torch import Tensor, nn
from torch.nn import functional as F

from mmpsbn.engine import DemPHook
from mmpsbn.engine.runner_parts import averaged_models_of, bare_model
from mmpsbn.pruning import PrunePlan

from .checks import require

_RUNS = itertools.count()  # MMEngine wants each runner of a process under its own name
SGD = dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4)


class Classifier(BaseModel):
    """ResNet-18 for pictures of 32x32, without mmpretrain's preprocessor, which makes them float32.

    Args:
        width: channels of the first stage, 64 as published.
    """

    def __init__(self, width: int, norm: str):
        super().__init__()
        widths = dict(stem_channels=width, base_channels=width)
        # the runner initialises nothing anew, or no channel would be dead any more
        how = dict(norm_cfg=dict(type=norm), zero_init_residual=False, init_cfg=[])
        self.net = ResNet_CIFAR(depth=18, **widths, **how)
        self.fc = nn.Linear(8 * width, 10)

    def forward(self, inputs, labels=None, mode='tensor'):
        logits = self.fc(self.net(inputs)[-1].mean((2, 3)))
        return dict(loss=F.cross_entropy(logits, labels)) if mode == 'loss' else logits


def pictures(seed: int, dtype: torch.dtype, count: int = 64) -> list[dict]:
    """Noise of 32x32 with labels, from a seed."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 3, 32, 32, generator=generator, dtype=dtype)
    labels = torch.randint(0, 10, (count,), generator=generator)
    return [dict(inputs=x, labels=y) for x, y in zip(inputs, labels)]


def classifier(
    seed: int,
    *,
    width: int,
    norm: str = 'BN',
    dtype: torch.dtype = torch.float64,
) -> Classifier:
    """A ResNet-18 from a seed, of which two channels in each block are dead."""
    torch.manual_seed(seed)
    model = Classifier(width, norm).to(dtype)
    blocks = (m for m in model.modules() if isinstance(m, BasicBlock))
    kill_channels([block.norm1 for block in blocks], [1, 3])
    return model


def kill_channels(norms: Sequence[nn.Module], channels: Sequence[int]) -> None:
    """Make channels dead before a ReLU: gamma 0 and a negative bias."""
    with torch.no_grad():
        for layer in norms:
            layer.weight[channels], layer.bias[channels] = 0, -1.0


def demp(**changes) -> dict:
    """DemPHook without a budget. It draws no noise: other devices draw another one."""
    quiet = dict(penalty=dict(peak=1e-4), noise=dict(peak_std=0.0))
    return dict(type='DemPHook', prune=dict(interval=6, num_samples=8), **quiet) | changes


@contextmanager
def placed_on(device: str):
    """Within, MMEngine puts models on a device, whatever the machine has."""
    with mock.patch('mmengine.device.utils.DEVICE', device):
        yield


def train(
    folder: Path,
    model: nn.Module,
    hooks: Sequence[dict],
    *,
    device: str,
    steps: int,
    seed: int,
    data: Sequence[dict] | None = None,
    batch_size: int = 8,
    collate: str = 'default_collate',
    shuffle: bool = True,
    optim_wrapper: dict | None = None,
    deterministic: bool = False,
    **kwargs,
) -> Runner:
    """A runner that has trained ``model`` on a device.

    Args:
        data: by default float64 pictures.
        kwargs: of the Runner.
    """
    with placed_on(device):
        runner = Runner(
            model,
            work_dir=str(folder),
            train_dataloader=dict(
                batch_size=batch_size,
                num_workers=0,
                dataset=data or pictures(seed, torch.float64),
                sampler=dict(type='InfiniteSampler', shuffle=shuffle),
                collate_fn=dict(type=collate),
            ),
            train_cfg=dict(by_epoch=False, max_iters=steps),
            optim_wrapper=optim_wrapper or dict(optimizer=dict(SGD)),
            custom_hooks=[dict(hook) for hook in hooks],
            default_hooks=dict(
                logger=dict(type='LoggerHook', interval=steps),
                checkpoint=dict(type='CheckpointHook', interval=steps // 2, by_epoch=False),
            ),
            randomness=dict(seed=seed, deterministic=deterministic),
            log_level='ERROR',
            experiment_name=f'gpu_check{next(_RUNS)}',
            **kwargs,
        )
        logging.getLogger('mmengine').setLevel(logging.ERROR)
        runner.train()
    return runner


def plan_of(runner: Runner) -> PrunePlan:
    """What its DemPHook has removed."""
    hook = next(hook for hook in runner.hooks if isinstance(hook, DemPHook))
    return hook.pruner.structure.plan


def tensors_of(runner: Runner) -> dict[str, Tensor]:
    """Weights and buffers of the model and of its averages, by name, on the CPU."""
    models = {'': bare_model(runner)}
    models |= {f'average {i} ': m for i, m in enumerate(averaged_models_of(runner))}
    return {
        f'{prefix}{name}': tensor.cpu()
        for prefix, model in models.items()
        for name, tensor in model.state_dict().items()
    }


def furthest(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> tuple[float, str]:
    """The largest difference of all tensors, and in which.

    Raises:
        AssertionError: other tensors, or other shapes.
    """
    for name in ours.keys() | theirs.keys():
        shapes = [tuple(t[name].shape) if name in t else 'missing' for t in (ours, theirs)]
        require(shapes[0] == shapes[1], f'{name}: {shapes[0]} here, {shapes[1]} there')
    differences = {
        name: float((tensor.double() - theirs[name].double()).abs().nan_to_num(torch.inf).max())
        for name, tensor in ours.items()
        if tensor.numel()
    }
    worst = max(differences, key=differences.get)
    return differences[worst], worst
