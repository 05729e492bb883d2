"""How the neurons of an MLP die under three kinds of noise (DemP section 2.2, appendix D.1)."""

import torch
from torch import Tensor
from torch.nn import functional as F

_REGIMES = ('gradient noise', 'asymmetric noise', 'symmetric noise', 'SGD')
_HIDDEN = (100, 300)


def dead_neurons_by_step(
    images: Tensor,
    labels: Tensor,
    *,
    regime: str,
    lrs: list[float],
    num_steps: int,
    every: int,
    noise_std: float,
    generator: torch.Generator,
) -> Tensor:
    """How many of the 400 ReLUs of a net with layers of 100, 300 and ``labels.max() + 1`` neurons
    are 0 on all images, in the course of w <- w - lr * d.

    Args:
        images, labels: shapes (N, pixels) and (N,), int64.
        regime: what d is. ``'SGD'``: the gradient of one image. ``'gradient noise'``: this less the
            gradient of all, so that the loss pulls nowhere, and what is dead gets none of it.
            ``'symmetric noise'``: from N(0, noise_std^2); ``'asymmetric noise'``: the same, of the
            weights of neurons that are not dead.
        lrs: L of them; all nets begin with the same weights and see the same noise.
        every: steps between two counts.
        generator: of the weights, the order of the images and the noise.

    Returns:
        Shape (num_steps // every, L), int64.

    Raises:
        ValueError: an unknown regime.
    """
    if regime not in _REGIMES:
        raise ValueError(f'regime must be one of {_REGIMES}, got {regime!r}')
    weights = _fresh_weights(images.size(1), int(labels.max()) + 1, len(lrs), generator)
    rates = torch.tensor(lrs)[:, None, None]
    counts = []
    for step in range(1, num_steps + 1):
        if regime in ('asymmetric noise', 'symmetric noise'):
            steps = [noise_std * torch.randn(w.shape[1:], generator=generator) for w in weights]
            if regime == 'asymmetric noise':
                alive = _alive(weights, images)
                steps = [d * mask[:, None] for d, mask in zip(steps, alive)] + steps[-1:]
        else:
            one = torch.randint(len(images), (1,), generator=generator)
            loss = _loss(weights, images[one], labels[one])
            if regime == 'gradient noise':
                loss = loss - _loss(weights, images, labels)
            steps = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for weight, d in zip(weights, steps):
                weight -= rates * d
        if step % every == 0:
            counts.append(sum((~alive).sum(1) for alive in _alive(weights, images)))
    return torch.stack(counts)


def _fresh_weights(pixels: int, classes: int, copies: int, generator) -> list[Tensor]:
    """Of each layer, shape (copies, inputs + 1, outputs), the last row being the biases; each from
    U(-1, 1) / sqrt(inputs), as torch begins."""
    sizes = (pixels, *_HIDDEN, classes)
    drawn = [
        (2 * torch.rand(inputs + 1, outputs, generator=generator) - 1) / inputs**0.5
        for inputs, outputs in zip(sizes, sizes[1:])
    ]
    return [w.repeat(copies, 1, 1).requires_grad_() for w in drawn]


def _outputs(weights: list[Tensor], images: Tensor) -> list[Tensor]:
    """Of each layer, shape (copies, images, outputs)."""
    x, outputs = images.expand(len(weights[0]), *images.shape), []
    for weight in weights:
        x = torch.baddbmm(weight[:, -1:], x, weight[:, :-1])
        x = x if weight is weights[-1] else x.relu()
        outputs.append(x)
    return outputs


def _loss(weights: list[Tensor], images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, the mean over the images, summed over the copies."""
    logits = _outputs(weights, images)[-1]
    labels = labels.repeat(len(logits))
    return F.cross_entropy(logits.flatten(0, 1), labels, reduction='sum') / len(images)


@torch.no_grad()
def _alive(weights: list[Tensor], images: Tensor) -> list[Tensor]:
    """Of each hidden layer, shape (copies, neurons), bool."""
    return [(x > 0).any(1) for x in _outputs(weights, images)[:-1]]
