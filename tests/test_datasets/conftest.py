import numpy as np
import pytest
from mmengine.runner import Runner
from PIL import Image


@pytest.fixture
def folder(tmp_path):
    """Lossless pictures of 3 classes, 4 of each class for training and 2 for testing."""
    rng = np.random.default_rng(0)
    for split, per_class in (('train', 4), ('test', 2)):
        for name in ('ant', 'bee', 'cow'):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(per_class):
                pixels = rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f'{i}.png')
    return tmp_path


@pytest.fixture
def loader_of():
    """A loader of whole batches, as the configs build it."""

    def build(dataset, batch_size, shuffle=False, seed=None):
        cfg = dict(
            batch_size=batch_size,
            num_workers=0,
            dataset=dataset,
            sampler=dict(type='DefaultSampler', shuffle=shuffle),
            collate_fn=dict(type='whole_batch_collate'),
        )
        return Runner.build_dataloader(cfg, seed=seed)

    return build
