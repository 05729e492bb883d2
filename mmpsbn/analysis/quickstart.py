"""The quickstart: a detector, and beside it one that loses half of its MACs while it trains."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn

from ..commands.model_files import load_model
from ..datasets import write_digits_dataset
from ..engine.openmmlab import step_seconds
from ..pruning.cost import count_positions, model_cost
from .boxes import draw_boxes
from .log_plots import write_log_picture
from .logs import progress, read_runs
from .report.config import ConfigSubject

_REPORT_SECONDS = 20.0
_ROUNDS = 9  # of timing; the first one warms up
_PICTURES = 12


def run_quickstart(
    dense: str, pruned: str, *, data_root: str, work_dir: str, resume: bool
) -> dict[str, dict[str, float]]:
    """Generate the digits, train both configs on them side by side, and report.

    With ``resume`` an interrupted run in ``work_dir`` goes on from its last checkpoints.
    Writes ``predictions.png``, those of the pruned detector, and ``training.png`` to ``work_dir``
    and prints a summary.

    Args:
        dense, pruned: paths of configs.

    Returns:
        For ``dense`` and ``pruned``: ``mAP`` on the val images, ``minutes`` of training, ``macs``
        of an image and ``step_seconds`` of a training step at the end.

    Raises:
        RuntimeError: a training failed; names its log.
    """
    write_digits_dataset(data_root, num_train=2400, num_val=160, image_size=(160, 128), seed=0)
    configs = dict(dense=dense, pruned=pruned)
    folders = {name: Path(work_dir) / name for name in configs}
    minutes = _train_side_by_side(configs, folders, data_root, resume)
    runs = read_runs(list(folders.values()))
    write_log_picture(runs, Path(work_dir) / 'training.png')
    cfg = Config.fromfile(dense)
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_root = f'{data_root}/'
    cfg.test_evaluator.ann_file = f'{data_root}/annotations/val.json'
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    models = {}
    for name, folder in folders.items():
        checkpoint = (folder / 'last_checkpoint').read_text()
        models[name] = load_model(Config.fromfile(configs[name]), checkpoint).model.to(device)
    _draw_predictions(models['pruned'], cfg, Path(work_dir) / 'predictions.png')
    scored = ConfigSubject(cfg, use_data=True, input_size=None, device=device)
    # not read of the log: a training that was killed in its last validation goes on without one
    scores = {name: scored.score(model.eval()) for name, model in models.items()}
    seconds = _step_seconds(models, cfg)
    result = {
        # CocoMetric reports nothing where nothing was detected
        name: dict(mAP=scores[name].get('coco/bbox_mAP', 0.0), macs=_macs(model))
        | dict(minutes=minutes[name], step_seconds=seconds[name])
        for name, model in models.items()
    }
    print(_summary(result, work_dir))
    return result


def _summary(result: Mapping[str, Mapping[str, float]], work_dir: str) -> str:
    rows = [
        ('COCO mAP on the val images', 'mAP', '{:.3f}', 1),
        ('MACs of an image, M', 'macs', '{:.1f}', 1e-6),
        ('a training step, s (medians, in turn)', 'step_seconds', '{:.3f}', 1),
        ('training, minutes', 'minutes', '{:.1f}', 1),
    ]
    lines = [f'\n{"":<40}{"dense":>8}{"pruned":>8}{"ratio":>8}']
    for what, key, form, factor in rows:
        dense, pruned = (result[name][key] * factor for name in ('dense', 'pruned'))
        ratio = f'{pruned / dense:.2f}' if dense else ''
        lines.append(f'{what:<40}{form.format(dense):>8}{form.format(pruned):>8}{ratio:>8}')
    pictures = [str(Path(work_dir) / f'{name}.png') for name in ('predictions', 'training')]
    return '\n'.join([*lines, f'Pictures: {", ".join(pictures)}'])


def _train_side_by_side(
    configs: Mapping[str, str], folders: Mapping[str, Path], data_root: str, resume: bool
) -> dict[str, float]:
    """Minutes by name. Each training is a process with one thread: two would wait for each other
    at every layer, and for long where another process has one of their cores."""
    data = Path(data_root)
    options = [f'{split}_dataloader.dataset.data_root={data}/' for split in ('train', 'val')]
    options += [f'val_evaluator.ann_file={data}/annotations/val.json']
    one_thread = dict(os.environ, OMP_NUM_THREADS='1', MKL_NUM_THREADS='1')
    running: dict[str, subprocess.Popen] = {}
    minutes: dict[str, float] = {}
    started = last_report = time.monotonic()
    try:
        for name, config in configs.items():
            folders[name].mkdir(parents=True, exist_ok=True)
            words = [sys.executable, '-m', 'mmpsbn', 'train', config]
            words += ['--work-dir', str(folders[name]), *(['--resume'] if resume else [])]
            with open(folders[name] / 'train.log', 'a') as log:
                how = dict(stdout=log, stderr=subprocess.STDOUT, env=one_thread)
                running[name] = subprocess.Popen([*words, '--cfg-options', *options], **how)
        while len(minutes) < len(running):
            time.sleep(0.5)
            for name, process in running.items():
                if process.poll():
                    log = folders[name] / 'train.log'
                    raise RuntimeError(f'a training failed, see the end of {log}')
                if process.poll() == 0:
                    minutes.setdefault(name, (time.monotonic() - started) / 60)
            if time.monotonic() - last_report > _REPORT_SECONDS:
                last_report = time.monotonic()
                print('; '.join(f'{name}: {progress(folders[name])}' for name in running))
    finally:  # an interruption
        for process in running.values():
            process.terminate()
            process.wait()
    return minutes


def _macs(model: nn.Module) -> int:
    """Multiply-accumulates of one 160x128 image."""
    image = torch.zeros(1, 3, 128, 160, device=next(model.parameters()).device)
    return model_cost(model, count_positions(model, image, lambda m, x: m(x, mode='tensor'))).macs


def _step_seconds(models: Mapping[str, nn.Module], cfg: Config) -> dict[str, float]:
    """Median of a training step of each model on a batch, measured in turn."""
    batch = next(iter(Runner.build_dataloader(cfg.train_dataloader, seed=0)))
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for round_ in range(_ROUNDS):
        for name, model in models.items():
            model.train()
            idle = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.0))
            taken = step_seconds(model, batch, idle)
            if round_:
                seconds[name].append(taken)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _draw_predictions(model: nn.Module, cfg: Config, path: Path) -> None:
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    samples = model.eval().test_step(pseudo_collate([dataset[i] for i in range(_PICTURES)]))
    draw_boxes(samples, dataset.metainfo['classes'], path, score_threshold=0.3)
