"""A model of mmpretrain, trained on the device and exported on the CPU."""

import subprocess
import sys

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.structures import DataSample

from mmpsbn.engine.openmmlab import model_cfg_of

from .checks import ROOT, Setup, child_environment, require
from .runs import demp, kill_channels, plan_of, train

_CONFIG = ROOT / 'configs/demp_cls/resnet18_sgdm_cifar10.py'
_STEPS = 12


def _packed(seed: int, count: int = 64) -> list[dict]:
    """Noise of 32x32 as mmpretrain packs pictures."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    samples = [DataSample().set_gt_label(i % 10) for i in range(count)]
    return [dict(inputs=x, data_samples=sample) for x, sample in zip(noise, samples)]


def export_of_a_run(setup: Setup) -> str:
    """Train ResNet-18 under DemPHook, and export its last checkpoint in a process without a GPU.

    Raises:
        AssertionError: no channel went, or ``mmpsbn export`` fails, as it does where the exported
            model gives other outputs.
    """
    init_default_scope('mmpretrain')
    cfg = Config.fromfile(str(_CONFIG))
    cfg.model.backbone.update(base_channels=16, stem_channels=16)
    cfg.model.head.in_channels = 128
    torch.manual_seed(setup.seed)
    model = MODELS.build(model_cfg_of(cfg))
    model.init_weights()
    stages = (getattr(model.backbone, f'layer{i}') for i in range(1, 5))
    kill_channels([block.bn1 for stage in stages for block in stage], [1, 3])
    folder = setup.folder / 'export'
    how = dict(steps=_STEPS, seed=setup.seed, data=_packed(setup.seed), collate='pseudo_collate')
    runner = train(folder, model, [demp()], device=setup.device, default_scope='mmpretrain', **how)
    require(bool(plan_of(runner)), 'no channel went')
    config = str(folder / 'resnet18.py')
    cfg.dump(config)
    command = [sys.executable, '-m', 'mmpsbn', 'export', config, f'{folder}/iter_{_STEPS}.pth']
    command += ['--out', f'{folder}/files', '--input-size', '32', '32', '--fuse', '--force']
    alone = child_environment(CUDA_VISIBLE_DEVICES='')
    done = subprocess.run(command, env=alone, capture_output=True, text=True)
    require(done.returncode == 0, f'mmpsbn export: {done.stderr.strip()[-300:]}')
    said = done.stdout.splitlines()
    return next(line for line in said if 'BatchNorms folded' in line)
