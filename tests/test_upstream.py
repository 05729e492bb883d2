"""Private names of torch and MMEngine: each is still there. That they stand in upstream.py alone is
held by ruff (SLF001, PLC2701)."""

import importlib

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.optim import OptimWrapper
from mmengine.runner import FlexibleRunner
from torch import nn
from toy import ToyData, ToyNet, toy_runner

from mmpsbn import upstream


@pytest.fixture(scope='module')
def owners(tmp_path_factory):
    """What has private names that this package uses; the runners before ``train()``."""
    folder = tmp_path_factory.mktemp('runners')
    flexible = FlexibleRunner(
        model=ToyNet(),
        work_dir=str(folder / 'flexible'),
        train_dataloader=dict(batch_size=8, dataset=ToyData(), sampler=dict(type='DefaultSampler')),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        compile=True,
        experiment_name='flexible',
    )
    sgd = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    return dict(
        Runner=toy_runner(folder / 'plain', load_from='x.pth'),
        FlexibleRunner=flexible,
        Strategy=flexible.strategy,
        OptimWrapper=OptimWrapper(sgd, accumulative_counts=3),
        step=torch.optim.SGD.step,  # once one was built
        operation=torch.ops.aten.add_.Tensor,
        Tensor=torch.ones(2)[:1],
        Module=nn.Module(),
        BatchNorm2d=nn.BatchNorm2d(2),
        SyncBatchNorm=nn.SyncBatchNorm(2),
    )


RUNNERS = ('_resume', '_load_from', '_train_loop')
NAMES = {
    'torch': ('_foreach_add', '_foreach_sub', '_foreach_copy_'),
    'torch.nn.modules.batchnorm': ('_BatchNorm', '_NormBase'),
    'torch.nn.modules.conv': ('_ConvNd',),
    'torch.nn.modules.dropout': ('_DropoutNd',),
    'torch.nn.modules.instancenorm': ('_InstanceNorm',),
    'torch.utils._python_dispatch': ('TorchDispatchMode',),
    'Runner': (*RUNNERS, '_maybe_compile'),
    'FlexibleRunner': (*RUNNERS, '_compile'),
    'Strategy': ('_wrap_model',),
    'OptimWrapper': ('_accumulative_counts',),
    'step': ('hooked', '__wrapped__'),  # by which functional/decoupled_decay.py finds the step
    'operation': ('_schema',),
    'Tensor': ('_base',),
    'Module': (
        '_register_load_state_dict_pre_hook',
        '_forward_pre_hooks',
        '_forward_hooks',
        # layers/psbn.py overrides these
        '_apply',
        '_load_from_state_dict',
        '_save_to_state_dict',
    ),
    'BatchNorm2d': ('_check_input_dim',),
    'SyncBatchNorm': ('_check_non_zero_input_channels',),
}


@pytest.mark.parametrize('owner, name', [(o, name) for o, names in NAMES.items() for name in names])
def test_upstream_still_has(owners, owner, name):
    found = owners[owner] if owner in owners else importlib.import_module(owner)
    assert hasattr(found, name), f'{owner} of this version of torch or MMEngine has no {name}'


def test_they_tell_what_they_are_asked(owners, tmp_path):
    plain, flexible = owners['Runner'], owners['FlexibleRunner']
    assert upstream.load_from(plain) == 'x.pth' and upstream.load_from(flexible) is None
    assert not upstream.resumes(plain) and upstream.resumes(toy_runner(tmp_path, resume=True))
    assert upstream.is_compiled(flexible) and not upstream.is_compiled(plain)
    assert not upstream.trains(plain)
    plain.train_loop  # noqa: B018  builds it
    assert upstream.trains(plain)
    assert upstream.accumulative_counts(owners['OptimWrapper']) == 3
    assert upstream.base_of(owners['Tensor']).numel() == 2


def test_a_module_is_initialising_within_init_weights_alone():
    seen = []

    class Child(BaseModule):
        def init_weights(self):
            seen.append(upstream.is_initialising(self))

    parent = BaseModule()
    parent.child = Child()
    parent.init_weights()
    assert seen == [True], 'BaseModule of this version of MMEngine has no _params_init_info'
    assert not upstream.is_initialising(parent)
