"""What the log says of the loss around a cut."""

from types import SimpleNamespace

import pytest
import torch

from mmpsbn.engine.demp.loss_watch import LossWatch


@pytest.mark.parametrize('resumed', [False, True])
def test_the_loss_after_a_cut_is_compared_with_that_before_it(resumed):
    watch, said = LossWatch(2), []
    logger = SimpleNamespace(info=said.append)
    for loss in (4.0, 2.0, 1.0):
        watch.note(dict(loss=torch.tensor(loss)), logger)
    watch.cut(3)
    watch.note(dict(loss=torch.tensor(6.0)), logger)
    if resumed:
        state, watch = watch.state(), LossWatch(2)
        watch.restore(state)
    for loss in (8.0, 9.0):
        watch.note(dict(loss=torch.tensor(loss)), logger)
    before = 'the loss was 1.5000 in the 2 iterations before the cut at iteration 3, and '
    assert said == [f'{before}7.0000 in the 2 after it']
    watch.cut(6)
    watch.end(logger)
    assert len(said) == 1  # nothing is known of what came after it
    watch.note(dict(loss=torch.tensor(5.0)), logger)
    watch.end(logger)
    watch.end(logger)
    assert said[1:] == [
        'the loss was 8.5000 in the 2 iterations before the cut at iteration 6, and 5.0000 in the '
        '1 after it'
    ]
