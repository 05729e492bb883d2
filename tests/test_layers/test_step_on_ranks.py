"""psBN on two gloo ranks, in the ways that torch shards models and optimizers."""

import pytest
import step_worker
import torch
from ranks import run_on_ranks

WAYS = ['in_ddp', 'with_zero']
if hasattr(torch.distributed, 'init_device_mesh'):  # torch 2.2: before, FSDP needs a GPU
    WAYS += ['in_fsdp1_with_the_original_parameters', 'in_fsdp2']


@pytest.mark.parametrize('way', WAYS)
def test_the_formula_holds_on_ranks(tmp_path, way):
    for difference in run_on_ranks(getattr(step_worker, way), 2, tmp_path):
        assert difference < 1e-12


def test_flat_parameters_are_refused_by_name(tmp_path):
    said = run_on_ranks(step_worker.in_fsdp1_with_flat_parameters, 2, tmp_path)[0]
    assert '2 psBN layers are trained and their biases are in no optimizer' in said
    assert '.1, _fsdp_wrapped_module.4. An optimizer on copies (FSDP with use_orig' in said
