"""A psBN checkpoint is a BatchNorm checkpoint, both ways, and its averages average b."""

import pytest
import torch
from layer_cases import CASES, C, make, randomise
from mmengine.runner import save_checkpoint
from mmengine.runner.checkpoint import get_state_dict, weights_to_cpu
from torch import nn

from mmpsbn.layers import psBN1d


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('towards', ['plain', 'psbn'])
def test_a_checkpoint_computes_the_same_function_on_the_other_side(case, towards):
    layer, plain, x = make(case, alpha=0.25)
    assert list(layer.state_dict()) == list(plain.state_dict())
    source, target = (layer, plain) if towards == 'plain' else (plain, layer)
    target.load_state_dict(source.state_dict(), strict=True)
    assert torch.equal(layer.state_dict()['bias'], layer.bias)
    outputs = [[who.train()(x), who.eval()(x), *who.buffers()] for who in (source, target)]
    for ours, theirs in zip(*outputs, strict=True):
        assert torch.equal(ours, theirs)


def net(seed, **kwargs):
    """Nested psBN layers with random parameters."""
    model = nn.Sequential(psBN1d(C, **kwargs), nn.Sequential(psBN1d(C, **kwargs)))
    return randomise(model, seed)


def test_b_is_what_mmengine_saves_and_what_a_net_of_another_alpha_loads(tmp_path):
    source, target = net(0, alpha=0.1), net(1, alpha=0.4)
    path = str(tmp_path / 'c.pth')
    save_checkpoint(dict(meta={}, state_dict=weights_to_cpu(get_state_dict(source))), path)
    target.load_state_dict(torch.load(path, weights_only=True)['state_dict'])
    for ours, theirs in zip(target.parameters(), source.parameters()):
        assert torch.equal(ours, theirs)
