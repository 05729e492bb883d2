"""Small MMEngine models and runners for the tests."""

import itertools

import torch
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

import mmpsbn  # noqa: F401  registers psBN and the hooks, also on spawned ranks

_BN = dict(type='BN')
# of ToyNet, for FreezeHook and what it keeps
TRAINED_PARTS = {
    'norm': dict(train=['norm']),
    'norm and output': dict(train=['norm', 'fc']),
    'output': dict(train=['fc']),
    'two per channel': dict(train=[], per_channel=2),
    'two per channel and output': dict(train=['fc'], per_channel=2),
    'all but norm': dict(freeze=['norm']),
}
_RUNS = itertools.count()  # MMEngine wants each runner of a process under its own name


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, inner: int, norm: dict):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, inner, 3, padding=1, bias=False)
        self.bn1 = build_norm_layer(norm, inner)[1]
        self.conv2 = nn.Conv2d(inner, channels, 3, padding=1, bias=False)
        self.bn2 = build_norm_layer(norm, channels)[1]

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(x + self.bn2(self.conv2(out)), inplace=True)


@MODELS.register_module(force=True)
class ToyNet(BaseModel):
    """Stem, two residual blocks and a linear classifier for 8x8 images."""

    def __init__(
        self, norm_cfg=_BN, width=8, inner=12, classes=4, dtype=torch.float32, init_cfg=None
    ):
        super().__init__(dict(type='ToyPreprocessor'), init_cfg)
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = build_norm_layer(norm_cfg, width)[1]
        self.blocks = nn.Sequential(
            ResidualBlock(width, inner, norm_cfg), ResidualBlock(width, inner, norm_cfg)
        )
        self.fc = nn.Linear(width, classes)
        self.to(dtype)

    def forward(self, inputs, labels=None, mode='tensor'):
        x = F.relu(self.norm(self.stem(inputs)), inplace=True)
        logits = self.fc(self.blocks(x).mean((2, 3)))
        if mode == 'loss':
            return dict(loss=F.cross_entropy(logits, labels))
        return logits


@MODELS.register_module(force=True)
class ToyPreprocessor(nn.Module):
    def forward(self, data, training=False):
        return data

    def to(self, *args, **kwargs):
        return self


class ToyData(Dataset):
    """Seeded noise images with labels."""

    def __init__(self, length=32, seed=0, dtype=torch.float32):
        generator = torch.Generator().manual_seed(seed)
        self.inputs = torch.randn(length, 3, 8, 8, generator=generator, dtype=dtype)
        self.labels = torch.randint(0, 4, (length,), generator=generator)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return dict(inputs=self.inputs[i], labels=self.labels[i])


def toy_runner(
    work_dir,
    hooks=(),
    norm='BN',
    epochs=4,
    batch_size=8,
    model=None,
    optim_wrapper=None,
    checkpoint=None,
    dtype=torch.float32,
    iters=None,
    **kwargs,
):
    """A runner over ToyNet, or ``model``: 4 iterations an epoch, checkpoint each epoch. With
    ``iters`` instead of epochs, a checkpoint every 5 iterations."""
    torch.manual_seed(0)
    return Runner(
        model=model or dict(type='ToyNet', norm_cfg=dict(type=norm), dtype=dtype),
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=batch_size,
            num_workers=0,
            dataset=ToyData(dtype=dtype),
            collate_fn=dict(type='default_collate'),
            sampler=dict(type='InfiniteSampler' if iters else 'DefaultSampler', shuffle=True),
        ),
        train_cfg=dict(by_epoch=False, max_iters=iters)
        if iters
        else dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=optim_wrapper
        or dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-3)),
        custom_hooks=list(hooks),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(type='CheckpointHook', interval=5 if iters else 1, by_epoch=not iters)
            | (checkpoint or {}),
        ),
        randomness=dict(seed=0),
        log_level='WARNING',
        experiment_name=f'toy{next(_RUNS)}',
        **kwargs,
    )


def kill_channels(layer, channels) -> None:
    """Make channels of a normalisation layer dead before a ReLU, for good: the effective
    bias is negative and gamma is 0."""
    with torch.no_grad():
        layer.weight[channels] = 0
        layer.bias[channels] = -1.0
