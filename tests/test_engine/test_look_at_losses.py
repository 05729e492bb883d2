"""The look at the losses, for what runs in training only, leaves no trace in the training."""

import copy
import random

import numpy as np
import torch
from mmengine.registry import MODELS
from runs import assert_resumes, demp
from snapshots import assert_same
from test_training_only import TrainingNet, embedded_labels
from torch import nn
from toy import ToyData, ToyPreprocessor

from mmpsbn.engine.demp.trace_coverage import held_by_losses
from mmpsbn.engine.openmmlab import forward_tensors
from mmpsbn.pruning import trace_channel_graph


@MODELS.register_module(force=True)
class Mixup(ToyPreprocessor):
    """Draws from NumPy, as mmpretrain's does, and from ``random``, as MMDetection's do."""

    def forward(self, data, training=False):
        if not training:
            return data
        return dict(data, inputs=data['inputs'] * float(np.random.beta(1, 1)) * random.random())


def losses_with_a_memory(model, stem, labels):
    """As DynamicRoIHead has, and a tensor that torch does not copy."""
    loss = embedded_labels(model, stem, labels)
    model.history.append(loss.item())
    model.last = [dict(loss=loss * 2)]
    return loss


def net_with_a_memory():
    torch.manual_seed(0)
    model = TrainingNet(losses_with_a_memory, embedding=nn.Embedding(4, 12)).train()
    model.data_preprocessor = Mixup()
    model.history = []
    return model


def random_states():
    return torch.get_rng_state(), torch.from_numpy(np.random.get_state()[1].astype('int64'))


def test_it_leaves_no_trace_in_model_batch_and_random_numbers():
    model = net_with_a_memory()
    model.blocks[0].bn1.eval()
    groups = trace_channel_graph(model, torch.randn(1, 3, 8, 8), forward_tensors).groups
    data = ToyData()
    batch = dict(inputs=data.inputs[:8], labels=data.labels[:8])
    model(**batch, mode='loss')
    modes = [module.training for module in model.modules()]
    before = copy.deepcopy((model.state_dict(), batch, random_states()))
    kept = random.getstate(), list(model.history), model.last
    assert held_by_losses(model, batch, groups, ['extra.embedding']) == {}
    assert_same((model.state_dict(), batch, random_states()), before)
    assert [module.training for module in model.modules()] == modes
    assert kept == (random.getstate(), model.history, model.last) and len(model.history) == 1


def test_a_run_with_it_is_resumed_bit_equal(tmp_path):
    def fresh():
        return dict(model=net_with_a_memory())

    assert_resumes(
        tmp_path, [demp(interval=8, num_samples=8)], at='epoch_1.pth', fresh=fresh, epochs=2
    )
