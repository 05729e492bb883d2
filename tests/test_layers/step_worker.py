"""What each of two gloo ranks runs for test_step_on_ranks.py: a net by psBN and one by the formula,
each trained in one way; the largest difference of their parameters is what comes back."""

import torch
import torch.distributed as dist
from by_formula import ALPHA, ByTheFormula, loss_of, net, psbn
from torch import optim
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from mmpsbn.engine.norms.beta_decay import check_betas_held

SETTINGS = dict(lr=0.05, momentum=0.9, weight_decay=0.1)


def train(model, optimizer, steps=5):
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(model, 10 * step + dist.get_rank()).backward()
        optimizer.step()


@torch.no_grad()
def difference(ours, formula):
    """Of psBN's parameters, by the paper's reckoning, from those by the formula."""
    shift = {'1.bias': ALPHA, '4.bias': ALPHA}
    return max(float((p - shift.get(n, 0) - formula[n]).abs().max()) for n, p in ours.items())


def in_ddp():
    found = []
    for norm in (psbn, ByTheFormula):
        model = net(norm)
        wrapped = DistributedDataParallel(model)
        train(wrapped, optim.SGD(model.parameters(), **SETTINGS))
        found.append(dict(model.named_parameters()))
    return difference(*found)


def with_zero():
    found = []
    for norm in (psbn, ByTheFormula):
        model = net(norm)
        wrapped = DistributedDataParallel(model)
        sharded = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=optim.SGD, **SETTINGS)
        train(wrapped, sharded)
        found.append(dict(model.named_parameters()))
    return difference(*found)


def in_fsdp2():
    from torch.distributed.fsdp import fully_shard

    found = []
    for norm in (psbn, ByTheFormula):
        model = net(norm)
        fully_shard(model, mesh=dist.init_device_mesh('cpu', (dist.get_world_size(),)))
        train(model, optim.SGD(model.parameters(), **SETTINGS))
        found.append({name: p.full_tensor() for name, p in model.named_parameters()})
    return difference(*found)


def in_fsdp1_with_the_original_parameters():
    from torch.distributed.fsdp import FullyShardedDataParallel

    found = []
    for norm in (psbn, ByTheFormula):
        model = FullyShardedDataParallel(
            net(norm), device_id=torch.device('cpu'), use_orig_params=True
        )
        train(model, optim.SGD(model.parameters(), **SETTINGS))
        with FullyShardedDataParallel.summon_full_params(model):
            found.append({n: p.detach().clone() for n, p in model.module.named_parameters()})
    return difference(*found)


def in_fsdp1_with_flat_parameters():
    """What the check says of it."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = FullyShardedDataParallel(net(psbn), device_id=torch.device('cpu'))
    try:
        check_betas_held(model, [optim.SGD(model.parameters(), **SETTINGS)])
    except TypeError as error:
        return str(error)
    return 'accepted'
