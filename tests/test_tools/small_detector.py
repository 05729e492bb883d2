"""A RetinaNet of a few thousand parameters on a few digits, and commands run on it."""

import io
import json
import runpy
import shlex
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmpsbn  # noqa: F401
from mmpsbn.cli import main
from mmpsbn.commands.model_files import load_model, save_weights
from mmpsbn.commands.recalibration import recalibrate_batch_norms
from mmpsbn.datasets import write_digits_dataset
from mmpsbn.engine.openmmlab import forward_tensors, trace_at_any_size
from mmpsbn.pruning import PrunePlan, apply_plan
from mmpsbn.pruning.plan import plan_from_keep_masks
from mmpsbn.pruning.verification import probe_outputs

ROOT = Path(__file__).parents[2]
CONFIG = """
_base_ = {base!r}
model = dict(
    backbone=dict(base_channels=8),
    neck=dict(in_channels=[16, 32], out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16),
    test_cfg=dict(score_thr=0.0, max_per_img=20),
)
train_dataloader = dict(batch_size=4, dataset=dict(data_root={data!r}))
val_dataloader = dict(dataset=dict(data_root={data!r}))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file={data!r} + 'annotations/val.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1, val_interval=2)
custom_hooks = [dict(type='SparsityHook')]
"""


def write_small_detector(folder):
    """Write data, ``small.py`` and ``dense.pth`` into a folder; weights and biases are random,
    and the norms' statistics fit them, so that no channel is dead by chance."""
    data = f'{folder}/digits/'
    write_digits_dataset(data, num_train=8, num_val=4, image_size=(160, 128), seed=0)
    base = str(ROOT / 'configs/quickstart/retinanet_r18_psbn_digits.py')
    (folder / 'small.py').write_text(CONFIG.format(base=base, data=data))
    cfg = Config.fromfile(str(folder / 'small.py'))
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith('bias'):
                tensor.normal_(std=0.1)
            elif name.endswith('weight') and tensor.dim() == 1:
                tensor.uniform_(0.5, 1.5)
    recalibrate_batch_norms(model, iter([images()]))
    save_weights(
        model,
        str(folder / 'dense.pth'),
        dataset_meta=dict(classes=tuple('0123456789'), palette=[(0, 0, 255)] * 10),
    )
    return cfg


def run(*arguments):
    """Run ``mmpsbn`` in this process; returns what it printed."""
    said = io.StringIO()
    with redirect_stdout(said):
        main([*map(str, arguments)])
    return said.getvalue()


def run_tool(name, *arguments):
    """Run ``tools/<name>.py`` in this process."""
    before = sys.argv
    sys.argv = [f'{name}.py', *map(str, arguments)]
    try:
        runpy.run_path(str(ROOT / f'tools/{name}.py'), run_name='__main__')
    finally:
        sys.argv = before


def refusal(function, *arguments):
    """The one sentence with which ``function(*arguments)`` ends the program."""
    with pytest.raises(SystemExit) as stopped:
        function(*arguments)
    message = str(stopped.value)
    assert message.startswith('error: ') and '\n' not in message
    return message


def report(folder):
    """The numbers of a report, beside which nothing else was written."""
    assert sorted(p.name for p in folder.iterdir()) == ['layers.csv', 'report.html', 'report.json']
    return json.loads((folder / 'report.json').read_text())


def load(config, checkpoint):
    return load_model(Config.fromfile(str(config)), str(checkpoint))


def next_commands(said):
    """The words behind ``mmpsbn`` of the commands that a tool names as the next."""
    lines = [shlex.split(line) for line in said.split('Next:\n')[1].splitlines()]
    return [words[1:] if words[0] == 'mmpsbn' else words[3:] for words in lines]


def outputs(model, images):
    """Raw outputs as one vector."""
    return torch.cat([x.flatten() for x in probe_outputs(model, images, forward_tensors)])


def assert_near(ours, theirs, tolerance=1e-5):
    """Equal to rounding, relative to the largest value."""
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


def images(count=2, height=128, width=160):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, height, width, generator=generator)


def prune_some(model, images) -> PrunePlan:
    """Remove every third channel; returns the plan that did."""
    groups = trace_at_any_size(model, images)[0].groups
    masks = {name: torch.arange(group.channels) % 3 > 0 for name, group in groups.items()}
    plan = plan_from_keep_masks(model, groups, masks)
    apply_plan(model, plan)
    return plan
