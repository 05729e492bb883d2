"""What a round changes of a net: weights at other places, an optimizer that forgets."""

import pytest
import torch

from mmpsbn.functional.rounds import reset_state_, shuffle_


def shuffled(seed):
    tensor = torch.arange(120.0).view(4, 5, 6).permute(2, 0, 1)  # not contiguous
    shuffle_(tensor, generator=torch.Generator().manual_seed(seed))
    return tensor


def test_a_shuffle_keeps_the_values_and_moves_them_across_all_dimensions():
    tensor = shuffled(0)
    assert tensor.shape == (6, 4, 5) and sorted(tensor.flatten().tolist()) == list(range(120))
    assert (tensor == torch.arange(120.0).view(4, 5, 6).permute(2, 0, 1)).float().mean() < 0.1
    assert len({int(v) // 30 for v in tensor[0].flatten()}) > 1
    assert torch.equal(tensor, shuffled(0)) and not torch.equal(tensor, shuffled(1))


@pytest.mark.parametrize(
    'name, settings',
    [
        ('SGD', dict(momentum=0.9)),
        ('Adam', dict(amsgrad=True)),
        ('Adagrad', dict(initial_accumulator_value=0.1, lr_decay=0.1)),
        ('Adadelta', {}),
        ('RMSprop', dict(momentum=0.9, centered=True)),
        ('Adamax', {}),
    ],
)
def test_after_a_reset_an_optimizer_steps_as_a_fresh_one(name, settings):
    def steps(optimizer, weight, grads):
        for grad in grads:
            weight.grad = torch.full_like(weight, grad)
            optimizer.step()

    build = getattr(torch.optim, name)
    used, fresh = (torch.ones(3, requires_grad=True) for _ in range(2))
    optimizer = build([used], lr=0.1, **settings)
    steps(optimizer, used, [1.0, -2.0, 0.5])
    reset_state_(optimizer)
    with torch.no_grad():
        used.fill_(1.0)
    steps(optimizer, used, [0.3, 0.4])
    steps(build([fresh], lr=0.1, **settings), fresh, [0.3, 0.4])
    assert torch.equal(used, fresh)
