"""What each of two gloo ranks runs for test_sync.py."""

import torch
import torch.distributed as dist

from mmpsbn.layers import psSyncBN

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


def layer_of(name, layer_type=psSyncBN):
    layer = layer_type(C, **RUNS[name][1])
    dtype = torch.promote_types(RUNS[name][2], torch.float32)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for p in layer.parameters():
            p.normal_(generator=generator)
    return layer.to(dtype)


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


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=2
    )
    results = {}
    for name in RUNS:
        results[name] = forward_backward(layer_of(name), *data_of(name, rank), steps=2)
    if rank == 0:  # in eval mode nobody waits for the other rank
        layer = layer_of('2d').eval()
        results['eval'] = layer(data_of('2d', 0)[0]).detach()
    alone = dist.new_group([0]), dist.new_group([1])
    results['own-group'] = layer_of_group(alone[rank])(data_of('2d', rank)[0]).detach()
    torch.save(results, f'{folder}/rank{rank}.pth')
    dist.barrier()
    dist.destroy_process_group()


def layer_of_group(group):
    return psSyncBN(C, process_group=group).double()
