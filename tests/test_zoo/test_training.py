"""The README's line on one detector of every family of mmdet's zoo: half of the MACs go while it
trains for a few steps, and what is saved loads again.

By default a few quick families run. The table of docs/prune_zoo.md:
``pytest -m slow -s tests/test_zoo/test_training.py --whole-zoo``.
"""

import copy
import shutil

import pytest
import torch
from families import config_of, family_names, model_cfg_of
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from mmengine.structures import InstanceData, PixelData

from mmpsbn.commands.model_files import load_model
from mmpsbn.engine.openmmlab import forward_tensors
from mmpsbn.pruning.forward import tensors_in

QUICK = [f'mmdet/{name}' for name in 'centernet fcos rtmdet yolo yolox'.split()]
LEFT = 0.5
ITERATIONS = 16  # the cut comes after ten steps, which tell what the loss misses
SIDES = (128, 320)  # of the pictures: small ones first; 300 are in the name of an SSD


def picture(side: int, with_masks: bool) -> dict:
    """Three boxes on noise."""
    meta = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), (side, side))
    sample = DetDataSample(metainfo=dict(meta, img_id=0, scale_factor=(1.0, 1.0)))
    corner = torch.randint(0, side // 2, (3, 2))
    boxes = torch.cat([corner, corner + torch.randint(side // 4, side // 2, (3, 2))], 1)
    masks = torch.zeros(3, side, side, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes):
        mask[top:bottom, left:right] = 1
    sample.gt_instances = InstanceData(
        bboxes=HorizontalBoxes(boxes.float()),
        labels=torch.tensor([0, 1, 2]),
    )
    sample.proposals = InstanceData(bboxes=boxes.float())  # of Fast R-CNN
    if with_masks:
        sample.gt_instances.masks = BitmapMasks(masks.numpy(), side, side)
    sample.ignored_instances = InstanceData(
        bboxes=HorizontalBoxes(torch.zeros(0, 4)), labels=torch.zeros(0, dtype=torch.int64)
    )
    sample.gt_sem_seg = PixelData(sem_seg=masks.amax(0, keepdim=True))
    noise = torch.randint(0, 255, (3, side, side), dtype=torch.uint8)
    return dict(inputs=noise, data_samples=sample)


class Copies(list):
    """Of samples: Fast R-CNN takes the proposals out of what it is given."""

    def __getitem__(self, index):
        return copy.deepcopy(super().__getitem__(index))


def train(cfg: dict, side: int, work_dir: str) -> Runner:
    torch.manual_seed(0)
    runner = Runner(
        revert_sync_batchnorm(MODELS.build(copy.deepcopy(cfg))),
        work_dir,
        default_scope='mmdet',
        experiment_name='zoo',
        custom_hooks=[dict(type='DemPHook', budget=dict(flops=LEFT, cuts=1, begin=0.0, end=0.75))],
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=ITERATIONS)
        ),
        train_dataloader=dict(
            batch_size=2,
            dataset=Copies(picture(side, with_masks='mask' in str(cfg)) for _ in range(2)),
            collate_fn=dict(type='pseudo_collate'),
            sampler=dict(type='InfiniteSampler', shuffle=False),
        ),
        train_cfg=dict(by_epoch=False, max_iters=ITERATIONS),
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=1e-4, momentum=0.9), clip_grad=dict(max_norm=1)
        ),
    )
    runner.train()
    return runner


def train_at_any_size(cfg: dict, work_dir: str) -> tuple[Runner, int]:
    small, large = SIDES
    try:
        return train(cfg, small, work_dir), small
    except RuntimeError as error:
        if 'cannot trace' not in str(error):
            raise
    return train(cfg, large, work_dir), large


@pytest.fixture(scope='module')
def rows():
    """Filled by the families; printed as a table in the end, for ``-s``."""
    rows = []
    yield rows
    print('\n| family | config | side | channels left | MACs left |\n|---|---|---:|---:|---:|')
    print(*(f'| {" | ".join(map(str, row))} |' for row in rows), sep='\n')


def pytest_generate_tests(metafunc):
    if 'family' in metafunc.fixturenames:
        whole = metafunc.config.getoption('--whole-zoo')
        detectors = [name for name in family_names() if name.startswith('mmdet/')]
        metafunc.parametrize('family', detectors if whole else QUICK)


@pytest.mark.slow
def test_one_line_halves_a_detector_and_what_is_saved_loads(family, rows, tmp_path):
    config = config_of(family)
    init_default_scope('mmdet')
    cfg = model_cfg_of(config)
    # pads to the size of its own pictures
    cfg.get('data_preprocessor', {}).pop('batch_augments', None)
    runner, side = train_at_any_size(cfg, str(tmp_path))
    pruner = next(hook.pruner for hook in runner.hooks if hasattr(hook, 'pruner'))
    left = pruner.progress.left
    rows.append((family, config.name, side, f'{left["channels"]:.0%}', f'{left["macs"]:.1%}'))
    assert abs(left['macs'] / LEFT - 1) <= 0.02
    saved = str(tmp_path / f'iter_{ITERATIONS}.pth')
    loaded = load_model(Config(dict(model=cfg, default_scope='mmdet')), saved).model
    shutil.rmtree(tmp_path)
    image = torch.randn(1, 3, side, side)
    with torch.no_grad():
        pairs = [list(tensors_in(forward_tensors(m, image))) for m in (runner.model.eval(), loaded)]
    assert pairs[0]
    for trained, again in zip(*pairs, strict=True):
        assert trained.isfinite().all()
        torch.testing.assert_close(again, trained, rtol=0, atol=0)
