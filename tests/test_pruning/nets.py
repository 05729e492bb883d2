"""Nets of the shapes pruning must be right on, in float64; how to mask and prune them,
and what they cost."""

import copy

import torch
from draws import generator
from snapshots import assert_same, snapshot  # noqa: F401  for the tests that import nets
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from toy import ToyNet

from mmpsbn.layers import convert_to_psbn
from mmpsbn.pruning import trace_channel_graph
from mmpsbn.pruning.cost import count_positions, model_cost
from mmpsbn.pruning.flow import READERS
from mmpsbn.pruning.forward import call_with as forward
from mmpsbn.pruning.observation import observe_channels
from mmpsbn.pruning.plan import plan_from_keep_masks


def conv_bn(c_in, c_out, **kwargs):
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, padding=1, bias=False, **kwargs), nn.BatchNorm2d(c_out), nn.ReLU()
    )


class Chain(nn.Module):
    """VGG-like: convolutions with and without bias, a flatten, a hidden linear layer."""

    def __init__(self, width=6):
        super().__init__()
        self.features = nn.Sequential(
            *conv_bn(3, width),
            nn.MaxPool2d(2),
            *conv_bn(width, width),
            nn.Conv2d(width, width + 2, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(nn.Linear((width + 2) * 4, 10), nn.ReLU(), nn.Linear(10, 4))

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


class Concat(nn.Module):
    """Two branches, a norm over both, a reader of both; one branch is read once more."""

    def __init__(self):
        super().__init__()
        self.left, self.right = conv_bn(3, 5), conv_bn(3, 7)
        self.norm = nn.BatchNorm2d(12)
        self.join, self.out = nn.Conv2d(12, 6, 3, padding=1), nn.Conv2d(6 + 5, 4, 1)

    def forward(self, x):
        left, right = self.left(x), self.right(x)
        x = F.relu(self.join(F.relu(self.norm(torch.cat([left, right], 1)))))
        return self.out(torch.cat([x, left], 1))


class FPN(nn.Module):
    """Two levels, a top-down addition, and a head that they share, with norms of each one's own."""

    def __init__(self):
        super().__init__()
        self.stage1 = conv_bn(3, 6)
        self.stage2 = conv_bn(6, 8, stride=2)
        self.lateral1, self.lateral2 = nn.Conv2d(6, 5, 1), nn.Conv2d(8, 5, 1)
        self.fpn1, self.fpn2 = nn.Conv2d(5, 7, 3, padding=1), nn.Conv2d(5, 7, 3, padding=1)
        self.tower = nn.Conv2d(7, 9, 3, padding=1)
        self.tower_norms = nn.ModuleList([nn.BatchNorm2d(9), nn.BatchNorm2d(9)])
        self.cls, self.reg = nn.Conv2d(9, 4, 3, padding=1), nn.Conv2d(9, 2, 3, padding=1)

    def forward(self, x):
        c1 = self.stage1(x)
        c2 = self.stage2(c1)
        p2 = self.lateral2(c2)
        p1 = self.lateral1(c1) + F.interpolate(p2, scale_factor=2)
        towers = [
            F.relu(norm(self.tower(F.relu(fpn(p)))))
            for norm, fpn, p in zip(self.tower_norms, (self.fpn1, self.fpn2), (p1, p2))
        ]
        return [self.cls(t) for t in towers], dict(reg=[self.reg(t) for t in towers])


class Mobile(nn.Module):
    """Depthwise convolutions with a multiplier, squeeze and excitation, a layer scale, PReLU."""

    def __init__(self):
        super().__init__()
        self.stem = conv_bn(3, 6)
        self.depthwise = conv_bn(6, 12, groups=6)
        self.squeeze, self.excite = nn.Linear(12, 5), nn.Linear(5, 12)
        self.project, self.act = nn.Conv2d(12, 6, 1, bias=False), nn.PReLU(6)
        self.scale = nn.Parameter(torch.ones(6, 1, 1))
        self.out = nn.Linear(6 * 64, 4)

    def forward(self, x):
        x = self.stem(x)
        y = self.depthwise(x)
        gate = self.excite(F.relu(self.squeeze(y.mean((2, 3))))).sigmoid()
        x = x + self.scale * self.act(self.project(y * gate[:, :, None, None]))
        return self.out(x.permute(0, 2, 3, 1).reshape(len(x), -1))


class Shuffle(nn.Module):
    """Chunks, a channel shuffle, grouped and transposed convolutions, GroupNorm, unfold."""

    def __init__(self):
        super().__init__()
        self.stem = conv_bn(3, 16)
        self.branch = conv_bn(8, 8)
        self.grouped = conv_bn(16, 8, groups=8)
        self.up, self.norm = nn.ConvTranspose2d(8, 12, 2, stride=2), nn.GroupNorm(6, 12)
        self.out = nn.Linear(12 * 4, 5)

    def forward(self, x):
        kept, x = self.stem(x).chunk(2, dim=1)
        x = torch.cat([kept, self.branch(x)], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        x = F.silu(self.norm(self.up(self.grouped(x))))
        return self.out(F.unfold(x, 2, stride=2).transpose(1, 2))


class Context(nn.Module):
    """Attention over positions: queries and keys stay whole, values lose channels."""

    def __init__(self):
        super().__init__()
        self.stem, self.qk, self.v = conv_bn(3, 6), nn.Conv2d(6, 8, 1), nn.Conv2d(6, 8, 1)
        self.w, self.out = nn.Conv2d(6, 7, 1), nn.Linear(8 + 7, 4)

    def forward(self, x):
        x = self.stem(x)
        q, k = (y.transpose(1, 2) for y in self.qk(x).flatten(2).chunk(2, dim=1))  # (N, HW, C)
        v, w = (layer(x).flatten(2).transpose(1, 2) for layer in (self.v, self.w))
        v = ((q @ k.transpose(1, 2)).softmax(-1) @ v).cummax(1).values
        w = F.scaled_dot_product_attention(q[:, None], k[:, None], w[:, None])[:, 0]
        return self.out(torch.cat([v, w], -1))


class Slopes(nn.Module):
    """A ReLU whose slopes and offsets are computed, as in DyHead; they are split by a size that
    stands in an attribute."""

    def __init__(self, channels):
        super().__init__()
        self.channels = channels
        self.squeeze, self.excite = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, 4 * channels, 1)

    def forward(self, x):
        slopes = self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True))))
        a, b, c, d = torch.split(slopes, self.channels, dim=1)
        return torch.maximum(x * a + b, x * c + d)


class Dynamic(nn.Module):
    """A gate that is split by an attribute."""

    def __init__(self):
        super().__init__()
        self.stem, self.slopes, self.out = conv_bn(3, 6), Slopes(6), nn.Conv2d(6, 4, 3)

    def forward(self, x):
        return self.out(self.slopes(self.stem(x)))


NETS = dict(
    chain=Chain,
    residual=ToyNet,
    concat=Concat,
    fpn=FPN,
    mobile=Mobile,
    shuffle=Shuffle,
    context=Context,
    dynamic=Dynamic,
    psbn_chain=lambda: convert_to_psbn(Chain(), alpha=0.3),
    psbn_residual=lambda: ToyNet(norm_cfg=dict(type='psBN')),
)


def build(name, seed=0):
    """(model in train mode, batch), float64, every tensor random."""
    torch.manual_seed(seed)
    model = NETS[name]().double().train()
    with torch.no_grad():
        for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point() and tensor.dim() == 1:
                tensor.normal_()
                if key.endswith('running_var'):
                    tensor.abs_().add_(0.5)
    return model, torch.randn(3, 3, 8, 8, dtype=torch.float64)


def trace(model, batch):
    return trace_channel_graph(model, batch[:1], forward)


def random_masks(groups, seed=0):
    """A keep mask of each group: some kept, some not."""
    masks = {}
    for name, group in groups.items():
        mask = torch.rand(group.channels, generator=generator(seed + len(masks))) < 0.6
        mask[(seed + 2) % group.channels] = False
        mask[seed % group.channels] = True
        masks[name] = mask
    return masks


def masked_copy(model, groups, masks):
    """A dense copy in which no reader sees the channels that go."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in masks.items():
            for reader in groups[name].readers:
                (dim,) = (dim for _, dim in reader.slices)
                weight = model.get_submodule(reader.layer).weight
                weight.transpose(0, dim)[reader.positions(~mask)] = 0
    return model


def silence(model, groups, seed=0):
    """Make random channels of every group zero at its readers; returns the keep masks."""
    masks = random_masks(groups, seed)
    with torch.no_grad():
        for name, mask in masks.items():
            group = groups[name]
            for member in (*group.writers, *group.channelwise):
                layer = model.get_submodule(member.layer)
                gone = member.positions(~mask)
                for tensor, dim in member.slices:
                    shift = -getattr(layer, 'alpha', 0.0) if tensor == 'bias' else 0.0
                    value = {**layer._parameters, **layer._buffers}[tensor]
                    if tensor != 'running_var':
                        value.transpose(0, dim)[gone] = shift
    return masks


def random_plan(model, batch, seed=0):
    groups = trace(model, batch).groups
    return plan_from_keep_masks(model, groups, random_masks(groups, seed))


def observe(model, batches, forward_fn=forward, all_reduce=None):
    """Convolution or linear layer -> the statistics of all that it reads."""
    layers = [name for name, module in model.named_modules() if isinstance(module, READERS)]
    readers = {name: ((name, 0),) for name in layers}
    seen = observe_channels(model, readers, batches, forward_fn, all_reduce=all_reduce)
    return {name: statistics for (name, _), statistics in seen.items()}


def flat(output):
    if isinstance(output, torch.Tensor):
        return [output]
    return [t for o in (output.values() if isinstance(output, dict) else output) for t in flat(o)]


def loss_of(outputs):
    return sum(
        (o.sin() * torch.linspace(-1, 2, o.numel(), dtype=o.dtype).view_as(o)).sum()
        for o in flat(outputs)
    )


def cost_of(model, batch):
    return model_cost(model, count_positions(model, batch, forward))


def torch_macs(model, batch):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(batch)
    return counter.get_total_flops() // 2
