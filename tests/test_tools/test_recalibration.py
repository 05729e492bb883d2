"""BatchNorm statistics estimated anew."""

import copy

import torch
from snapshots import assert_same, snapshot
from torch import nn

from mmpsbn.commands.recalibration import recalibrate_batch_norms


class Branches(nn.Module):
    """The second branch runs in training alone; dropout, if it were on, would change the first."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.9)
        self.first, self.second = nn.BatchNorm2d(2, momentum=0.3), nn.BatchNorm2d(2)
        for norm in (self.first, self.second):
            nn.init.normal_(norm.running_mean)
            norm.num_batches_tracked += 7

    def forward(self, x, mode):
        y = self.first(self.dropout(x))
        return self.second(y) if self.training else y


def test_statistics_are_the_mean_over_batches_of_what_they_reach():
    model = Branches().train()
    model.first.eval()
    before = copy.deepcopy(model)
    batches = torch.randn(3, 4, 2, 5, 5)
    recalibrate_batch_norms(model, iter(batches))
    torch.testing.assert_close(model.first.running_mean, batches.mean((0, 1, 3, 4)))
    variances = batches.transpose(1, 2).flatten(2).var(2).mean(0)
    torch.testing.assert_close(model.first.running_var, variances)
    assert_same(snapshot(model.second), snapshot(before.second))
    for now, then in zip(model.modules(), before.modules()):
        assert now.training == then.training
        assert getattr(now, 'momentum', None) == getattr(then, 'momentum', None)
