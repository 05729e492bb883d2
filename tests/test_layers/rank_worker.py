"""What each of two gloo ranks computes for test_on_ranks.py."""

import torch
import torch.distributed as dist
from by_formula import ALPHA, ByTheFormula, loss_of, net, psbn
from ranks import FSDP_ON_CPU
from torch import optim
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from mmpsbn.engine.norms.beta_decay import check_betas_held
from mmpsbn.layers import psSyncBN

# ---------------------------------------------------------------- psSyncBN
C = 4
# name -> (shapes on the two ranks, layer arguments, input dtype)
RUNS = {
    '2d': ([(3, C, 5, 4), (3, C, 5, 4)], {}, torch.float64),
    'uneven': ([(1, C, 5, 4), (6, C, 3, 3)], dict(alpha=0.4, eps=1e-3), torch.float64),
    'one-empty': ([(0, C, 2, 2), (3, C, 2, 2)], {}, torch.float64),
    'NC': ([(2, C), (1, C)], dict(momentum=None), torch.float64),
    '3d-untracked': (
        [(2, C, 2, 3, 2), (1, C, 2, 3, 2)],
        dict(track_running_stats=False),
        torch.float64,
    ),
    'bfloat16': ([(8, C, 40, 40), (8, C, 40, 40)], {}, torch.bfloat16),
    'float32-offset': ([(8, C, 20, 20), (8, C, 20, 20)], {}, torch.float32),
}


def layer_of(name):
    layer = psSyncBN(C, **RUNS[name][1])
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for p in layer.parameters():
            p.normal_(generator=generator)
    return layer.to(torch.promote_types(RUNS[name][2], torch.float32))


def data_of(name, rank):
    """(input, weights of the loss) of a rank; the ranks differ in mean and spread."""
    shapes, _, dtype = RUNS[name]
    generator = torch.Generator().manual_seed(rank)
    x = torch.randn(shapes[rank], generator=generator, dtype=torch.float64)
    offset = 1000.0 if name == 'float32-offset' else 0.5
    x = (x * (1 + rank) + offset + 3 * rank).to(dtype)
    return x, torch.randn(shapes[rank], generator=generator, dtype=torch.float64).to(x.dtype)


def forward_backward(layer, x, weights, steps):
    for _ in range(steps):
        leaf = x.clone().requires_grad_()
        out = layer(leaf)
    (out.sin() * weights).sum().backward()
    return dict(
        out=out.detach(),
        grad=leaf.grad,
        gamma_grad=layer.weight.grad,
        beta_grad=layer.bias.grad,
        buffers=dict(layer.named_buffers()),
    )


def synchronised(rank):
    found = {name: forward_backward(layer_of(name), *data_of(name, rank), steps=2) for name in RUNS}
    if rank == 0:  # in eval mode nobody waits for the other rank
        found['eval'] = layer_of('2d').eval()(data_of('2d', 0)[0]).detach()
    try:  # one value a channel on both ranks together
        layer_of('NC')(torch.ones(1 - rank, C, dtype=torch.float64))
    except ValueError as error:
        found['one-value'] = str(error)
    alone = dist.new_group([0]), dist.new_group([1])
    layer = psSyncBN(C, process_group=alone[rank]).double()
    found['own-group'] = layer(data_of('2d', rank)[0]).detach()
    return found


# ---------------------------------------------------------------- a net by psBN and by the formula
SETTINGS = dict(lr=0.05, momentum=0.9, weight_decay=0.1)


def train(model, optimizer, steps=5):
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(model, 10 * step + dist.get_rank()).backward()
        optimizer.step()


def ddp(model):
    train(DistributedDataParallel(model), optim.SGD(model.parameters(), **SETTINGS))
    return model.named_parameters()


def zero(model):
    settings = dict(optimizer_class=optim.SGD, **SETTINGS)
    optimizer = ZeroRedundancyOptimizer(model.parameters(), **settings)
    train(DistributedDataParallel(model), optimizer)
    return model.named_parameters()


def fsdp1(model):
    wrapped = in_fsdp1(model, use_orig_params=True)
    train(wrapped, optim.SGD(wrapped.parameters(), **SETTINGS))
    with wrapped.summon_full_params(wrapped):
        return [(name, p.clone()) for name, p in wrapped.module.named_parameters()]


def fsdp2(model):
    from torch.distributed.fsdp import fully_shard

    fully_shard(model, mesh=dist.init_device_mesh('cpu', (dist.get_world_size(),)))
    train(model, optim.SGD(model.parameters(), **SETTINGS))
    return [(name, p.full_tensor()) for name, p in model.named_parameters()]


def in_fsdp1(model, **kwargs):
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(model, device_id=torch.device('cpu'), **kwargs)


# name of each way -> a function that trains a net and returns its parameters by name
WAYS = dict(ddp=ddp, zero=zero)
if FSDP_ON_CPU:
    WAYS |= dict(fsdp1=fsdp1, fsdp2=fsdp2)


def difference(trained):
    """The largest one, of psBN's parameters by the paper's reckoning from those by the formula."""
    ours, formula = (
        {n: p.detach() for n, p in trained(net(norm))} for norm in (psbn, ByTheFormula)
    )
    shift = {'1.bias': ALPHA, '4.bias': ALPHA}
    return max(float((p - shift.get(n, 0) - formula[n]).abs().max()) for n, p in ours.items())


def said_of_flat_parameters():
    model = in_fsdp1(net(psbn))
    try:
        check_betas_held(model, [optim.SGD(model.parameters(), **SETTINGS)])
    except TypeError as error:
        return str(error)
    return 'accepted'


def work():
    return dict(
        synchronised=synchronised(dist.get_rank()),
        differences={name: difference(trained) for name, trained in WAYS.items()},
        flat=said_of_flat_parameters() if 'fsdp1' in WAYS else None,
    )
