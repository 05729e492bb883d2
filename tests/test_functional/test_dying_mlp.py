"""An MLP under noise: its steps against one net of torch, and who can die or revive."""

import pytest
import torch
from torch import nn

from mmpsbn.functional.dying_mlp import dead_neurons_by_step

IMAGES = torch.rand(40, 12, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % 5


def counts(regime, *, lrs, num_steps=1, noise_std=0.1, images=IMAGES):
    return dead_neurons_by_step(
        images,
        LABELS,
        regime=regime,
        lrs=lrs,
        num_steps=num_steps,
        every=1,
        noise_std=noise_std,
        generator=torch.Generator().manual_seed(1),
    )


def reference(regime, lr, num_steps):
    """One net at a time, of torch's own layers."""
    generator = torch.Generator().manual_seed(1)
    net = nn.Sequential(
        nn.Linear(12, 100), nn.ReLU(), nn.Linear(100, 300), nn.ReLU(), nn.Linear(300, 5)
    )
    for layer in net[::2]:
        drawn = torch.rand(layer.in_features + 1, layer.out_features, generator=generator)
        drawn = (2 * drawn - 1) / layer.in_features**0.5
        layer.weight.data, layer.bias.data = drawn[:-1].T.clone(), drawn[-1].clone()
    loss, dead = nn.CrossEntropyLoss(), []
    for _ in range(num_steps):
        one = torch.randint(40, (1,), generator=generator)
        noisy = torch.autograd.grad(loss(net(IMAGES[one]), LABELS[one]), [*net.parameters()])
        whole = torch.autograd.grad(loss(net(IMAGES), LABELS), [*net.parameters()])
        with torch.no_grad():
            for weight, g, mean in zip(net.parameters(), noisy, whole):
                weight -= lr * (g - mean if regime == 'gradient noise' else g)
            hidden = (net[:2](IMAGES), net[:4](IMAGES))
            dead.append(sum(int((x == 0).all(0).sum()) for x in hidden))
    return dead


@pytest.mark.parametrize('regime', ['gradient noise', 'SGD'])
def test_each_learning_rate_is_a_net_of_its_own(regime):
    found = counts(regime, lrs=[0.05, 1.0], num_steps=12)
    assert found.tolist() == [
        list(both) for both in zip(*(reference(regime, r, 12) for r in (0.05, 1.0)))
    ]
    assert found[-1, 1] > found[0, 0]


def test_who_is_dead_revives_by_noise_on_all_neurons_alone():
    """On images of which nothing comes through: only biases matter, and all that die stay dead."""
    nothing = torch.zeros_like(IMAGES)
    asymmetric, symmetric = (
        counts(regime, lrs=[1.0], num_steps=30, images=nothing).flatten()
        for regime in ('asymmetric noise', 'symmetric noise')
    )
    assert asymmetric[-1] > symmetric[-1]
    still = counts('symmetric noise', lrs=[1.0], num_steps=3, noise_std=0.0).flatten()
    assert (still == still[0]).all()


def test_an_unknown_regime():
    with pytest.raises(ValueError, match="regime must be one of .*, got 'none'"):
        counts('none', lrs=[0.1])
