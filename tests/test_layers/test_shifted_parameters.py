"""Which parameters an optimizer sees as betas, and what is said where it sees none."""

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from layer_cases import C, randomise
from torch import nn, optim
from torch.nn.utils import parametrize, prune

from mmpsbn.layers import alpha_of, convert_from_psbn, convert_to_psbn, psBN2d

_ONE_PROCESS = """
import warnings
import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_pre_hooks
from mmpsbn.layers import optimizer_view, psBN2d

assert not _global_optimizer_pre_hooks, 'a process without psBN has hooks'

def net():
    return nn.Sequential(nn.Conv2d(3, 4, 1), psBN2d(4), nn.Conv2d(4, 2, 1))

def train(model, optimizers, steps=3):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        for _ in range(steps):
            model(torch.randn(2, 3, 4, 4)).square().sum().backward()
            for optimizer in optimizers:
                optimizer.step()
    return [str(w.message) for w in caught if 'psBN' in str(w.message)]

model = net()
copies = [nn.Parameter(p.detach().clone()) for p in model.parameters()]
for copy in copies:
    copy.grad = torch.zeros_like(copy)
found = train(model, [torch.optim.SGD(copies, 0.1)])
assert len(found) == 1 and '1 psBN layers are being trained' in found[0], found

optimizer_view._warned = False  # as in another process
first, second = (torch.optim.SGD(part.parameters(), 0.1) for part in (model[2], model[:2]))
model[1].requires_grad_(False)
assert not train(model, [first])
model[1].requires_grad_(True)
assert not train(model, [first, second])
"""


def test_a_plain_loop_warns_once_where_no_optimizer_holds_the_biases():
    run = subprocess.run([sys.executable, '-c', _ONE_PROCESS], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def decayed(layer):
    """The bias after a long decay without a gradient."""
    optimizer = optim.SGD(layer.parameters(), lr=0.5, weight_decay=1.0)
    for _ in range(60):
        for p in layer.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
    return layer.bias.detach()


def assigned(layer):
    state = {k: v.clone() for k, v in layer.state_dict().items()}
    layer.load_state_dict(state, assign=True)
    return layer


def doubled_with(setting):
    """``double()`` with one of torch's ways of making the new parameter."""

    def double(layer):
        switch = getattr(torch.__future__, f'set_{setting}_module_params_on_conversion')
        switch(True)
        try:
            return layer.double()
        finally:
            switch(False)

    return double


def put(layer):
    layer.bias = nn.Parameter(torch.full((C,), 3.0))
    return layer


def through_meta(layer):
    state = layer.state_dict()
    layer = layer.to('meta').to_empty(device='cpu')
    layer.load_state_dict({k: torch.nan_to_num(v) for k, v in state.items()})
    return layer


def tied(layer):
    layer.bias = psBN2d(C).bias
    return layer


NEW_PARAMETERS = dict(
    deepcopy=copy.deepcopy,
    double=lambda layer: layer.double(),
    overwritten=doubled_with('overwrite'),
    assigned=assigned,
    empty=through_meta,
    skip_init=lambda layer: randomise(nn.utils.skip_init(psBN2d, C)),
    put=put,
    tied=tied,
    pickled=lambda layer: pickle.loads(pickle.dumps(layer)),
)
if hasattr(torch.__future__, 'set_swap_module_params_on_conversion'):  # torch 2.2
    NEW_PARAMETERS['swapped'] = doubled_with('swap')


@pytest.mark.parametrize('name', NEW_PARAMETERS)
@pytest.mark.parametrize(
    'then',
    [lambda layer: layer, nn.SyncBatchNorm.convert_sync_batchnorm],
    ids=['psBN', 'SyncBatchNorm'],
)
def test_decay_leads_to_alpha_wherever_torch_makes_another_parameter(name, then):
    bias = decayed(then(NEW_PARAMETERS[name](randomise(psBN2d(C)))))
    torch.testing.assert_close(bias, torch.full_like(bias, 0.1), rtol=1e-6, atol=1e-6)


def test_decay_leads_to_alpha_behind_a_pruning_mask_and_a_parametrization():
    masked = prune.custom_from_mask(randomise(psBN2d(C)), 'bias', torch.ones(C))
    decayed(masked)
    masked(torch.zeros(2, C, 2, 2))  # which computes bias
    torch.testing.assert_close(masked.bias.detach(), torch.full((C,), 0.1))
    layer = randomise(psBN2d(C))
    parametrize.register_parametrization(layer, 'bias', nn.Identity())
    torch.testing.assert_close(decayed(layer), torch.full((C,), 0.1))


@pytest.mark.parametrize('copied', [lambda layer: layer, copy.deepcopy])
def test_a_parameter_that_was_put_past_the_layer_is_found_at_the_step(copied):
    layer = copied(psBN2d(C))
    layer._parameters['bias'] = nn.Parameter(torch.full((C,), 3.0))  # as FSDP2 does
    torch.testing.assert_close(decayed(layer), torch.full((C,), 0.1))


def test_what_a_masked_bias_is_computed_from_keeps_its_alpha():
    masked = prune.custom_from_mask(randomise(psBN2d(C)), 'bias', torch.ones(C))
    before = masked.bias_orig
    assigned(masked)
    assert masked.bias_orig is not before and alpha_of(masked.bias_orig) == 0.1


def test_a_converted_model_and_one_that_is_converted_back():
    model = nn.Sequential(randomise(nn.BatchNorm2d(C)))
    optimizer = optim.SGD(model.parameters(), lr=0.5, weight_decay=1.0)
    for convert, alpha in (
        (lambda m: convert_to_psbn(m, alpha=0.3), 0.3),
        (convert_from_psbn, 0.0),
    ):
        convert(model)
        for _ in range(60):
            for p in model.parameters():
                p.grad = torch.zeros_like(p)
            optimizer.step()
        torch.testing.assert_close(model[0].bias.detach(), torch.full((C,), alpha))
