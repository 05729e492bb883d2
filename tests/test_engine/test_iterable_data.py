"""Training data that do not know how many they are."""

import pytest
from mmengine.hooks import LoggerHook
from runs import demp, scalars, train
from torch.utils.data import DataLoader, IterableDataset
from toy import ToyData, kill_channels

from mmpsbn.engine.sparsity.settings import ActivationSettings

STREAM = dict(iters=8, log_processor=dict(by_epoch=False))


class Stream(IterableDataset):
    def __iter__(self):
        while True:
            yield from (ToyData()[i] for i in range(32))


def stream(runner):
    runner._train_dataloader = DataLoader(Stream(), batch_size=8)
    # MMEngine's own asks for the length of the data
    runner._hooks = [hook for hook in runner._hooks if not isinstance(hook, LoggerHook)]
    kill_channels(runner.model.blocks[0].bn1, [0, 1, 2])


def test_sparsity_is_reported_at_its_interval(tmp_path):
    hook = dict(type='SparsityHook', interval=3)
    runner, _ = train(tmp_path, [hook], stream, **STREAM)
    assert [r['step'] for r in scalars(runner)] == [3, 6, 8]


@pytest.mark.parametrize('num_batches, steps', [(1, [100, 200]), (2, [200])])
def test_activations_are_looked_at_every_hundred_iterations_a_batch(num_batches, steps):
    settings = ActivationSettings(num_batches=num_batches)
    between = settings.interval(None)
    assert [step for step in range(1, 201) if step % between == 0] == steps


def test_an_interval_in_epochs_is_refused_before_the_first_step(tmp_path):
    hook = dict(type='SparsityHook', activations=dict(interval_epochs=2))
    with pytest.raises(ValueError, match='interval_epochs=2 counts epochs, and .* leave it out'):
        train(tmp_path, [hook], stream, **STREAM)


def test_demp_prunes(tmp_path):
    runner, _ = train(tmp_path, [demp(interval=4)], stream, **STREAM)
    assert runner.model.blocks[0].conv1.out_channels == 9
