"""Several ranks for the tests: gloo processes of this machine, or threads."""

import datetime
import multiprocessing
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

FSDP_ON_CPU = hasattr(dist, 'init_device_mesh')  # torch 2.2: before, it needs a GPU
# for toy_runner
ON_RANKS = dict(
    launcher='pytorch',
    batch_size=4,
    cfg=dict(
        model_wrapper_cfg=dict(
            type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False
        )
    ),
)


def fork_context():
    """Where processes start that have imported already what a run needs."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['toy', 'torchvision', 'matplotlib.pyplot'])
    return context


def _main(rank, world_size, port, function, out_dir, args):
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
    )
    # a rank that waits for one that has failed fails too
    limit = datetime.timedelta(minutes=5)
    dist.init_process_group('gloo', rank=rank, world_size=world_size, timeout=limit)
    try:
        torch.save(function(*args), f'{out_dir}/rank{rank}.pth')
        # The second one frees what the first still holds of the function's collectives: torch 2.1
        # may wait for ever where a gloo thread frees tensors of Python while the group goes.
        dist.barrier(), dist.barrier()
    finally:
        dist.destroy_process_group()


def run_on_ranks(function, world_size, tmp_path, *args):
    """What ``function(*args)`` returns on each rank."""
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    fork_context()
    mp.start_processes(
        _main,
        nprocs=world_size,
        args=(world_size, port, function, str(tmp_path), args),
        start_method='forkserver',
    )
    return [
        torch.load(f'{tmp_path}/rank{rank}.pth', weights_only=False) for rank in range(world_size)
    ]


def run_in_threads(function, world_size):
    """What ``function(rank, all_reduce)`` returns on each rank, a thread."""
    barrier, sent = threading.Barrier(world_size, timeout=60), {}

    def on_rank(rank):
        def all_reduce(tensor, op):
            sent[rank] = tensor
            barrier.wait()
            stacked = torch.stack([sent[k] for k in range(world_size)])
            barrier.wait()
            return stacked.sum(0) if op == 'sum' else stacked.amax(0)

        return function(rank, all_reduce)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(on_rank, range(world_size)))
