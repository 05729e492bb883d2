"""What `mmpsbn train` and `mmpsbn test` share: from command-line arguments to a runner.

Each function changes the config it is given and nothing else; they serve mmdet and mmpretrain
configs alike (told apart by `cfg.default_scope`).
"""

import datetime
import os
import os.path as osp
import signal
import subprocess
import sys
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.runner import Runner, find_latest_checkpoint

from .data_paths import leaf_datasets

_RANK_NAMES = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')
PRUNED_CHECKPOINT_HOOKS = ('DemPHook', 'PrunedCheckpointHook')
DETECTION_TTA_MODEL = dict(
    type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
)
_TTA_META = 'img_id img_path ori_shape img_shape scale_factor flip flip_direction'
DETECTION_TTA_PACK = dict(type='mmdet.PackDetInputs', meta_keys=tuple(_TTA_META.split()))


def load_config(path, *, cfg_options=None, work_dir=None, launcher='none'):
    """Read a config: a path, or `package::folder/name.py` as `_base_` takes it.

    The work dir is the argument's, else the config's own, else `./work_dirs/<config name>`.
    """
    package, _, name = path.rpartition('::')
    file = configs_folder(package) / name if package else Path(path)
    if not file.is_file():
        raise FileNotFoundError(f'config {path!r} does not exist')
    cfg = Config.fromfile(str(file))
    cfg.launcher = launcher
    if cfg_options is not None:
        cfg.merge_from_dict(cfg_options)
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('./work_dirs', file.stem)
    if cfg.get('default_scope') == 'mmpretrain':
        set_mmpretrain_dataloaders(cfg)
    return cfg


def configs_folder(package):
    """The configs of an installed package, or of one that is imported from its clone."""
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f'no package {package!r} is installed that could have configs')
    root = Path(spec.origin).parent
    installed = root / '.mim/configs'
    return installed if installed.is_dir() else root.parent / 'configs'


def set_mmpretrain_dataloaders(cfg):
    """Give every dataloader the defaults of mmpretrain's own tools: its configs rely on them."""
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if loader is None:
            continue
        loader.setdefault('collate_fn', ConfigDict(type='default_collate'))
        loader.setdefault('pin_memory', torch.cuda.is_available())
        if split != 'test':
            # torch refuses it without workers
            loader.setdefault('persistent_workers', loader.get('num_workers', 0) > 0)


def use_amp(cfg):
    """Train with mixed precision and a dynamic loss scale (`--amp`)."""
    if get_device() == 'cpu':
        raise ValueError(
            '--amp needs a GPU (MMEngine scales the loss on accelerators only); '
            'leave it out to train on the CPU'
        )
    wrapper = type_name(cfg.optim_wrapper.get('type', 'OptimWrapper'))
    if wrapper not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise ValueError(
            f"--amp replaces optim_wrapper.type 'OptimWrapper', but this config has {wrapper!r}"
        )
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def scale_lr(cfg):
    """Scale the learning rate by actual / base batch size (`--auto-scale-lr`)."""
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise ValueError(
            '--auto-scale-lr needs auto_scale_lr.base_batch_size in the config, '
            'for example auto_scale_lr = dict(enable=False, base_batch_size=16)'
        )
    cfg.auto_scale_lr.enable = True


def resume_from(cfg, checkpoint):
    """Resume from a checkpoint; 'auto' is the newest one in the work dir, and where there is none
    the run begins as the config says."""
    if checkpoint == 'auto' and find_latest_checkpoint(cfg.work_dir) is None:
        return
    cfg.resume = True
    cfg.load_from = None if checkpoint == 'auto' else existing(checkpoint)


def load_from(cfg, checkpoint):
    """Take the weights of a checkpoint, and nothing else of it."""
    cfg.resume = False
    cfg.load_from = existing(checkpoint)


def existing(checkpoint):
    """The checkpoint's own path or URL; FileNotFoundError for a path where no file is."""
    if '://' not in checkpoint and not osp.isfile(checkpoint):
        raise FileNotFoundError(f'checkpoint {checkpoint!r} does not exist')
    return checkpoint


def show_predictions(cfg, *, show, show_dir, wait_time):
    """Draw predictions while testing, in a window and/or as files."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise ValueError(
            '--show and --show-dir need a visualization hook in default_hooks, '
            "for example visualization=dict(type='DetVisualizationHook')"
        )
    classify = cfg.get('default_scope') == 'mmpretrain'
    hook['enable' if classify else 'draw'] = True
    if show:
        hook.update(show=True, wait_time=wait_time)
    if show_dir is not None:
        hook['out_dir' if classify else 'test_out_dir'] = show_dir


def use_tta(cfg):
    """Test-time augmentation by the config's `tta_model` and `tta_pipeline`, else with the image
    and its mirror image."""
    datasets = [inner for _, inner in leaf_datasets(cfg.test_dataloader.dataset, 'dataset')]
    classify = cfg.get('default_scope') == 'mmpretrain'
    if 'tta_model' not in cfg:
        cfg.tta_model = dict(type='AverageClsScoreTTA') if classify else DETECTION_TTA_MODEL
    if 'tta_pipeline' not in cfg:
        *pipeline, pack = deepcopy(datasets[0].pipeline)
        if not classify:
            pack = dict(DETECTION_TTA_PACK)
        flip = 'RandomFlip' if classify else 'mmdet.RandomFlip'  # mmdet's turns boxes as well
        flips = [dict(type=flip, prob=1.0), dict(type=flip, prob=0.0)]
        cfg.tta_pipeline = [*pipeline, dict(type='TestTimeAug', transforms=[flips, [pack]])]
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    for dataset in datasets:
        dataset.pipeline = cfg.tta_pipeline


def ensure_pruned_checkpoint_hook(cfg):
    """Add a hook that replays a pruned checkpoint's plan, unless the config has one.

    Without it the checkpoint would be copied into the dense model for the shapes that fit.
    """
    hooks = list(cfg.get('custom_hooks') or [])
    types = (hook.get('type') if isinstance(hook, dict) else type(hook) for hook in hooks)
    if not any(type_name(kind) in PRUNED_CHECKPOINT_HOOKS for kind in types):
        cfg.custom_hooks = [*hooks, dict(type='PrunedCheckpointHook')]


def prepare_cpu_ranks(cfg, launcher):
    """Without an accelerator, bring up `gloo` and a CPU wrapper before MMEngine reaches for CUDA.

    MMEngine's own launcher calls `torch.cuda.set_device` and gives DistributedDataParallel a device
    id; both fail for CPU ranks. It leaves a process group alone that is already there, and takes
    `device_ids` from `model_wrapper_cfg`.
    """
    if launcher == 'none':
        return
    _export_ranks(launcher)
    if get_device() != 'cpu':
        gpus = torch.cuda.device_count()
        if torch.cuda.is_available() and int(os.environ.get('LOCAL_RANK', 0)) >= gpus:
            raise ValueError(
                f'{os.environ.get("LOCAL_WORLD_SIZE", "more")} ranks were asked for on a machine '
                f'that shows {gpus} GPU(s); '
                f'ask for {gpus}, or set CUDA_VISIBLE_DEVICES= for CPU ranks'
            )
        return
    seconds = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout', 1800)
    torch.distributed.init_process_group('gloo', timeout=datetime.timedelta(seconds=seconds))
    wrapper = cfg.get('model_wrapper_cfg') or dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    cfg.model_wrapper_cfg = dict(wrapper, device_ids=None)


def exit_cleanly_on_sigterm():
    """Turn SIGTERM (a scheduler's way to stop a job) into SystemExit, so that files are closed and
    loggers flushed."""
    main_process = os.getpid()

    def stop(signum, frame):
        if os.getpid() != main_process:  # a forked data loader worker
            os._exit(128 + signum)
        signal.signal(signum, signal.SIG_IGN)
        print(
            'stopped by SIGTERM; '
            'run the same command with --resume to go on from the last checkpoint',
            file=sys.stderr,
            flush=True,
        )
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, stop)


def exit_with(error):
    """End the program with the error's own sentence, once for all ranks and without a traceback."""
    first = os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0'
    raise SystemExit(f'error: {error}' if first else 1)


def build_runner(cfg):
    if cfg.get('default_scope') == 'mmdet':
        from mmdet.utils import setup_cache_size_limit_of_dynamo

        setup_cache_size_limit_of_dynamo()
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def dump_predictions(runner, out):
    """Let `runner.test()` write its predictions to a pickle file as well."""
    if runner.cfg.get('default_scope') == 'mmpretrain':
        from mmengine.evaluator import DumpResults as Dump
    else:
        from mmdet.evaluation import DumpDetResults as Dump
    runner.test_evaluator.metrics.append(Dump(out_file_path=out))


def is_of_ranks(error):
    """Whether a collective has failed for what another rank did: it has died, or its time is up."""
    kind = getattr(torch.distributed, 'DistError', None)  # since torch 2.2, where it is built in
    if kind is not None and isinstance(error, kind):
        return True
    return any(words in str(error) for words in ('gloo', 'Connection closed by peer'))


def first_line(error):
    return next(iter(str(error).splitlines()), type(error).__name__)


def close_ranks():
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def type_name(type_or_name):
    """Of a type in a config, without the scope or the module before it."""
    name = getattr(type_or_name, '__name__', str(type_or_name))  # a str has no __name__
    return name.rpartition('.')[2]


def _export_ranks(launcher):
    """Name the ranks as torch.distributed's env:// reads them, from what Slurm and Open MPI set."""
    if launcher == 'slurm':
        names = ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID')
        if 'MASTER_ADDR' not in os.environ and 'SLURM_NODELIST' in os.environ:
            words = ['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']]
            os.environ['MASTER_ADDR'] = subprocess.check_output(words, text=True).split()[0]
    elif launcher == 'mpi':
        names = [f'OMPI_COMM_WORLD_{name}' for name in ('RANK', 'SIZE', 'LOCAL_RANK')]
    else:
        names = _RANK_NAMES
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise ValueError(
            f'--launcher {launcher} needs {", ".join(missing)} in the environment; '
            'start through torchrun --nproc-per-node N -m mmpsbn, srun or mpirun'
        )
    os.environ.update(zip(_RANK_NAMES, [os.environ[name] for name in names]))
    os.environ.setdefault('MASTER_PORT', '29500')
