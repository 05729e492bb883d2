"""The quickstart: train, prune and look, on the embedded data set."""

import statistics
import time
from pathlib import Path

import torch
from mmcv import imread
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn

from ..datasets import write_digits_dataset
from ..engine.openmmlab import step_seconds
from ..pruning.cost import count_positions, model_cost
from .boxes import draw_boxes
from .log_plots import write_log_picture
from .logs import PLACE, read_scalars


def run_quickstart(
    config_path: str, *, data_root: str, work_dir: str, resume: bool
) -> dict[str, float]:
    """Generate the digits, train the config on them, and report.

    With ``resume`` an interrupted run in ``work_dir`` goes on from its last checkpoint.
    Writes ``predictions.png`` and ``training.png`` to ``work_dir`` and prints a summary.

    Returns:
        ``mAP`` of the last validation, ``channels_removed``, ``prune_events`` that removed
        something, and ``macs_left``, ``step_time_left``: pruned over dense.
    """
    write_digits_dataset(data_root, num_train=2400, num_val=160, image_size=(160, 128), seed=0)
    cfg = Config.fromfile(config_path)
    cfg.work_dir = work_dir
    cfg.resume = resume
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_root = data_root
    cfg.val_evaluator.ann_file = f'{data_root}/annotations/val.json'
    cfg.test_evaluator = cfg.val_evaluator
    runner = Runner.from_cfg(cfg)
    started = time.perf_counter()
    runner.train()
    minutes = (time.perf_counter() - started) / 60

    scalars = read_scalars(Path(runner.log_dir) / PLACE)
    out_dir = Path(work_dir)
    write_log_picture({'quickstart': scalars}, out_dir / 'training.png')
    _draw_predictions(runner, out_dir / 'predictions.png')
    events = [r['demp/channels_removed'] for r in scalars if r.get('demp/channels_removed')]
    models = dict(dense=MODELS.build(cfg.model).to(_device(runner.model)), pruned=runner.model)
    times = _step_times(models, next(iter(runner.train_dataloader)))
    macs = {name: _macs(model) for name, model in models.items()}
    result = dict(
        # CocoMetric reports nothing where nothing was detected
        mAP=next((r['coco/bbox_mAP'] for r in scalars[::-1] if 'coco/bbox_mAP' in r), 0.0),
        channels_removed=sum(events),
        prune_events=len(events),
        macs_left=macs['pruned'] / macs['dense'],
        step_time_left=times['pruned'] / times['dense'],
    )
    print(
        f'\nTrained in {minutes:.1f} minutes: COCO mAP {result["mAP"]:.3f} on the val images.\n'
        f'{len(events)} prune events removed {result["channels_removed"]} channels; '
        f'MACs of an image {macs["dense"] / 1e6:.1f} M before, {macs["pruned"] / 1e6:.1f} M after '
        f'({result["macs_left"]:.0%}).\n'
        f'Time of a training step {times["dense"]:.3f} s before, {times["pruned"]:.3f} s after '
        f'({result["step_time_left"]:.0%}; medians, side by side).\n'
        f'Pictures: {out_dir / "predictions.png"}, {out_dir / "training.png"}'
    )
    return result


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _macs(model: nn.Module) -> int:
    """Multiply-accumulates of one 160x128 image."""
    image = torch.zeros(1, 3, 128, 160, device=_device(model))
    return model_cost(model, count_positions(model, image, lambda m, x: m(x, mode='tensor'))).macs


def _step_times(models: dict[str, nn.Module], batch: dict, rounds: int = 9) -> dict[str, float]:
    """Median seconds of a training step of each model, measured in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for round_ in range(rounds):
        for name, model in models.items():
            model.train()
            idle = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.0))
            taken = step_seconds(model, batch, idle)
            if round_:  # the first round warms up
                seconds[name].append(taken)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _draw_predictions(runner: Runner, out_path: Path, num_images: int = 12) -> None:
    dataset = runner.val_dataloader.dataset
    samples = runner.model.eval().test_step(pseudo_collate([dataset[i] for i in range(num_images)]))
    draw_boxes(
        [imread(sample.img_path, channel_order='rgb') for sample in samples],
        [
            dict(
                bboxes=sample.pred_instances.bboxes.cpu().numpy(),
                scores=sample.pred_instances.scores.cpu().numpy(),
                labels=sample.pred_instances.labels.cpu().numpy(),
            )
            for sample in samples
        ],
        [dict(bboxes=sample.gt_instances.bboxes.cpu().numpy()) for sample in samples],
        dataset.metainfo['classes'],
        out_path,
        score_threshold=0.3,
    )
