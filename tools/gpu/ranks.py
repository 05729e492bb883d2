"""Two processes on one device."""

import datetime
import multiprocessing
import os
import socket
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from .checks import Setup, require
from .runs import classifier, demp, furthest, pictures, plan_of, tensors_of, train

_CLOSE = 1e-6
_STEPS, _BATCH, _WIDTH = 12, 8, 8
_DDP = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)


def _trained(folder: Path, device: str, seed: int, norm: str, ranks: int):
    how = dict(device=device, seed=seed, steps=_STEPS, batch_size=_BATCH // ranks, shuffle=False)
    if ranks > 1:
        how |= dict(launcher='pytorch', cfg=dict(model_wrapper_cfg=_DDP))
    data = pictures(seed, torch.float64)
    model = classifier(seed, width=_WIDTH, norm=norm)
    return train(folder, model, [demp()], data=data, **how)


def _rank(rank: int, port: int, folder: str, device: str, seed: int) -> None:
    torch.set_num_threads(1)
    place = dict(RANK=rank, LOCAL_RANK=0, WORLD_SIZE=2, MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
    os.environ.update({name: str(value) for name, value in place.items()})
    limit = datetime.timedelta(seconds=60)
    dist.init_process_group('gloo', rank=rank, world_size=2, timeout=limit)
    runner = _trained(Path(folder) / f'rank{rank}', device, seed, 'psSyncBN', 2)
    torch.save((plan_of(runner).to_dict(), tensors_of(runner)), f'{folder}/rank{rank}.pth')
    dist.barrier()
    dist.destroy_process_group()


def compare_ranks(setup: Setup) -> str:
    """Raises AssertionError where the ranks differ from each other or from one process."""
    folder = setup.folder / 'ranks'
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    arguments = port, str(folder), setup.device, setup.seed
    # from a process that has imported what a run needs, and has not touched the GPU
    multiprocessing.get_context('forkserver').set_forkserver_preload([__name__])
    mp.start_processes(_rank, arguments, nprocs=2, start_method='forkserver')
    first, second = (torch.load(folder / f'rank{rank}.pth') for rank in range(2))
    alone = _trained(folder / 'alone', setup.device, setup.seed, 'psBN', 1)
    require(first[0] == second[0] == plan_of(alone).to_dict(), 'other channels went on a rank')
    require(bool(plan_of(alone)), 'no channel went')
    apart, name = furthest(first[1], second[1])
    require(apart == 0, f'{name} differs by {apart:.1e} between the ranks')
    worst, name = furthest(first[1], tensors_of(alone))
    require(worst <= _CLOSE, f'{name} is {worst:.1e} from one process of the joined batch')
    return f'{_STEPS} steps, ranks alike to the bit, within {worst:.1e} of one process'
