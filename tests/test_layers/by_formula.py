"""A small net with psBN and its twin by the paper's formula, in float64."""

import torch
from draws import generator
from torch import nn

from mmpsbn.layers import alpha_of, psBN2d

ALPHA = 0.25


class ByTheFormula(nn.BatchNorm2d):
    """The paper's layer: beta is the parameter, alpha comes on top."""

    def forward(self, x):
        return super().forward(x) + ALPHA


def net(norm):
    torch.manual_seed(0)
    # a bias in front of a norm has a gradient of rounding errors, which Adam makes large
    convs = nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 4, 3, bias=False)
    return nn.Sequential(convs[0], norm(8), nn.ReLU(), convs[1], norm(4), nn.ReLU()).double()


def psbn(channels):
    return psBN2d(channels, alpha=ALPHA, dtype=torch.float64)


def loss_of(model, step=0):
    draw = generator(step)
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=draw)
    y = torch.rand(4, 4, 4, 4, dtype=torch.float64, generator=draw)
    return (model(x) - y).square().mean()


def backward(model, step=0):
    model.zero_grad()
    loss = loss_of(model, step)
    loss.backward()
    return loss


def run(model, optimizer, steps):
    for step in range(steps):
        backward(model, step)
        optimizer.step()


def assert_same_after(train):
    """``train(model)`` does to beta in psBN's net what it does in the formula's."""
    ours, formula = net(psbn), net(ByTheFormula)
    train(ours), train(formula)
    for (name, p), q in zip(ours.named_parameters(), formula.parameters()):
        shift = 0 if alpha_of(p) is None else ALPHA
        torch.testing.assert_close(
            p - shift, q, rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f'{n}: {m}'
        )
    moved = ours[1].bias.detach() - ALPHA
    assert moved.abs().max() > 0, 'beta has not moved: no test'
