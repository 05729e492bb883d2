"""A project that knows nothing of mmpsbn, for test_foreign_run.py: trains, resumes, and writes down
what it drew and lost, with the import where its argument is 'with'; in the current folder."""

import random
import sys

if sys.argv[1] == 'with':
    import mmpsbn  # noqa: F401

import numpy as np
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset


class Net(BaseModel):
    def __init__(self):
        init = [dict(type='Kaiming', layer='Conv2d'), dict(type='Constant', val=1, layer='BN')]
        super().__init__(init_cfg=init)
        self.conv, self.bn = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)
        nn.init.zeros_(self.bn.bias)

    def forward(self, inputs, labels=None, mode='tensor'):
        x = F.relu(self.bn(self.conv(torch.stack(list(inputs)))))
        logits = self.fc(F.dropout(x.mean((2, 3)), 0.3, self.training))
        if mode == 'loss':
            return dict(loss=F.cross_entropy(logits, torch.as_tensor(labels)))
        return list(logits)


class Data(Dataset):
    """Draws from all three generators, as transforms do."""

    def __len__(self):
        return 16

    def __getitem__(self, i):
        draws = random.random() + np.random.rand()
        return dict(inputs=torch.randn(3, 8, 8) + draws, labels=i % 4)


class Score(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results += [float(sample.sum()) for sample in data_samples]

    def compute_metrics(self, results):
        return dict(score=sum(results))


class Draws(Hook):
    """What each iteration loses, and the state of each generator after it."""

    rows: list = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        states = str(random.getstate()), str(np.random.get_state()), torch.get_rng_state()
        self.rows.append((float(outputs['loss']), *states))


def run(by_epoch, length, **kwargs):
    def loader():
        return dict(batch_size=4, dataset=Data(), sampler=dict(type='DefaultSampler', shuffle=True))

    hook = dict(type='CheckpointHook', by_epoch=by_epoch, interval=2, max_keep_ckpts=1)
    runner = Runner(
        model=dict(type=Net),  # built once the seed is set
        work_dir='epochs' if by_epoch else 'iterations',
        train_dataloader=loader(),
        val_dataloader=loader(),
        val_cfg=dict(),
        val_evaluator=Evaluator([Score()]),
        train_cfg=dict(by_epoch=True, max_epochs=length),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        param_scheduler=dict(type='MultiStepLR', milestones=[2]),
        custom_hooks=[Draws(), dict(type='EMAHook', momentum=0.3)],
        default_hooks=dict(checkpoint=hook | dict(save_best='score', rule='greater')),
        randomness=dict(seed=0),
        log_level='ERROR',
        experiment_name=f'foreign{by_epoch}{length}',
        **kwargs,
    )
    runner.train()


if __name__ == '__main__':
    for by_epoch in (True, False):
        run(by_epoch, 2)
        run(by_epoch, 4, resume=True)
    torch.save(Draws.rows, 'draws.pth')
