"""BatchNorm statistics estimated anew, or left as they were."""

import copy

import pytest
import torch
from snapshots import assert_same, snapshot
from torch import nn

from mmpsbn.commands.recalibration import recalibrate_batch_norms


class Branches(nn.Module):
    """The second branch runs for large inputs alone; negative ones fail behind the first."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.BatchNorm2d(2, momentum=0.3), nn.BatchNorm2d(2)
        for norm in (self.first, self.second):
            nn.init.normal_(norm.running_mean)
            norm.num_batches_tracked += 7

    def forward(self, x, mode):
        y = self.first(x)
        if (x < 0).all():
            raise RuntimeError('out of memory')
        return self.second(y) if (x > 10).all() else y


def states(model):
    return [(m.training, getattr(m, 'momentum', None)) for m in model.modules()]


def test_a_failure_leaves_the_model_as_it_was():
    model = Branches().train()
    before = copy.deepcopy(model)
    with pytest.raises(RuntimeError, match='out of memory'):
        recalibrate_batch_norms(model, [torch.rand(4, 2, 3, 3), -torch.rand(4, 2, 3, 3)])
    assert states(model) == states(before)
    assert_same(snapshot(model), snapshot(before))


def test_a_layer_that_no_batch_reaches_keeps_its_statistics():
    model = Branches().train()
    before = copy.deepcopy(model)
    x = torch.rand(4, 2, 3, 3)
    recalibrate_batch_norms(model, [x])
    torch.testing.assert_close(model.first.running_mean, x.mean((0, 2, 3)))
    assert_same(snapshot(model.second), snapshot(before.second))
    assert states(model) == states(before)
