import pytest
import torch

from mmpsbn.functional.optimizer_state import reset_state_
from mmpsbn.functional.shuffling import shuffle_


def test_a_shuffle_keeps_the_values_and_moves_them():
    tensor = torch.arange(120.0).view(4, 5, 6)
    before = tensor.clone()
    shuffle_(tensor, generator=torch.Generator().manual_seed(0))
    assert tensor.shape == before.shape
    torch.testing.assert_close(tensor.flatten().sort().values, before.flatten())
    assert (tensor == before).float().mean() < 0.1


def test_a_shuffle_reaches_across_all_dimensions_and_strides():
    tensor = torch.arange(60.0).view(3, 4, 5).permute(2, 0, 1)  # not contiguous
    shuffle_(tensor, generator=torch.Generator().manual_seed(0))
    assert sorted(tensor.flatten().tolist()) == list(range(60))
    assert len({int(v) // 20 for v in tensor[0].flatten()}) > 1


def test_a_shuffle_is_its_seed_s():
    first, second = (torch.arange(50.0) for _ in range(2))
    for tensor in (first, second):
        shuffle_(tensor, generator=torch.Generator().manual_seed(3))
    assert torch.equal(first, second)
    shuffle_(second, generator=torch.Generator().manual_seed(4))
    assert not torch.equal(first, second)


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
