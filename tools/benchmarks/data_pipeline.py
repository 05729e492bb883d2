"""Images per second of InMemoryImages and of mmpretrain's own pipeline, without a net.

From the data loader to what the model gets: pad-4 random crop, horizontal flip, normalisation, at
one batch size, over the same pictures. Each round runs one epoch of every pipeline; the speed-ups
are taken within rounds and their median is the result. Target: >= 5 times the fastest of
mmpretrain's pipelines.

* in memory: InMemoryImages + BatchCropFlip, no worker.
* arrays, N workers: a data set like mmpretrain's CIFAR10 (decoded arrays; RandomCrop, RandomFlip,
  PackInputs) + ClsDataPreprocessor.
* files, N workers: CustomDataset, which decodes the JPEG files each time; the same otherwise.

Without --data-root, noise is written as JPEG files into a temporary folder.
"""

import argparse
import functools
import tempfile
from pathlib import Path

import mmengine
import mmpretrain
import numpy as np
import timing
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS, MODELS
from PIL import Image

from mmpsbn.datasets import InMemoryImages

TARGET = 5
OURS = 'in memory'
STATISTICS = dict(mean=[125.307, 122.961, 113.8575], std=[51.5865, 50.847, 51.255])
PIPELINE = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]


@DATASETS.register_module()
class DecodedArrays(BaseDataset):
    """The pictures of another set as mmpretrain's CIFAR10 holds its own."""

    def __init__(self, images, **kwargs):
        self.images = images
        super().__init__(ann_file='', **kwargs)

    def load_data_list(self):
        pixels = np.ascontiguousarray(self.images.images.permute(0, 2, 3, 1))
        return [
            dict(img=image, gt_label=int(label)) for image, label in zip(pixels, self.images.labels)
        ]


def write_noise(folder, num_images, seed):
    rng = np.random.default_rng(seed)
    for label in range(10):
        (folder / 'train' / str(label)).mkdir(parents=True)
    for i in range(num_images):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / 'train' / str(i % 10) / f'{i:06d}.jpg', quality=75)


def build_pipelines(data_root, cache_dir, args):
    """The functions that run an epoch, by name, and the number of images of each."""
    images = InMemoryImages(data_root, 'train', 'folder', cache_dir=cache_dir)
    sources = dict(
        arrays=dict(type='DecodedArrays', images=images, pipeline=PIPELINE),
        files=dict(
            type='CustomDataset',
            data_root=data_root,
            data_prefix='train',
            pipeline=[dict(type='LoadImageFromFile'), *PIPELINE],
        ),
    )
    ours = MODELS.build(dict(type='BatchCropFlip', **STATISTICS)).to(args.device)
    pipelines = {OURS: (images, 0, 'whole_batch_collate', ours)}
    for name, dataset in sources.items():
        for workers in args.workers:
            theirs = MODELS.build(
                dict(type='ClsDataPreprocessor', **STATISTICS, to_rgb=name == 'files')
            ).to(args.device)
            pipelines[f'{name}, {workers} workers'] = (dataset, workers, 'pseudo_collate', theirs)
    synchronize = timing.device_synchronizer(args.device)

    def run_epoch(loader, preprocessor):
        for batch in loader:
            preprocessor(batch, training=True)
        synchronize()

    epochs = {}
    for name, (dataset, workers, collate, preprocessor) in pipelines.items():
        loader = Runner.build_dataloader(
            dict(
                batch_size=args.batch_size,
                num_workers=workers,
                persistent_workers=workers > 0,
                dataset=dataset,
                sampler=dict(type='DefaultSampler', shuffle=True),
                collate_fn=dict(type=collate),
            ),
            seed=args.seed,
        )
        epochs[name] = functools.partial(run_epoch, loader, preprocessor)
    return epochs, len(images)


def report_on(times, num_images):
    """Rows of the table: images/s and how many times as fast ours is."""
    return [
        dict(
            pipeline=name,
            images_per_second=num_images / timing.spread(seconds)['median'],
            speedup_of_ours=timing.ratio(times, name, OURS),
        )
        for name, seconds in times.items()
    ]


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--data-root', help='folder with train/<class>/*.jpg, 32x32')
    parser.add_argument('--num-images', type=int, default=5000, help='of noise (default: 5000)')
    parser.add_argument('--batch-size', type=int, default=128)
    parser.add_argument('--workers', type=int, nargs='+', default=[0, 2], help='default: 0 2')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--warmup', type=int, default=1, help='rounds dropped at the start')
    timing.add_arguments(parser)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    timing.set_up(args)
    init_default_scope('mmpretrain')
    machine = timing.describe_machine(args)
    machine |= dict(mmengine=mmengine.__version__, mmpretrain=mmpretrain.__version__)
    timing.print_machine(machine)
    with tempfile.TemporaryDirectory() as scratch:
        data_root = args.data_root or scratch
        if args.data_root is None:
            write_noise(Path(scratch), args.num_images, args.seed)
        epochs, num_images = build_pipelines(data_root, scratch, args)
        times = timing.interleave(epochs, rounds=args.rounds, warmup=args.warmup, seed=args.seed)
    rows = report_on(times, num_images)
    timing.print_table(
        ['pipeline', 'images/s', 'in memory is faster by [quartiles]'],
        [
            [
                row['pipeline'],
                f'{row["images_per_second"]:.0f}',
                '{median:.1f} [{q1:.1f}, {q3:.1f}]'.format(**row['speedup_of_ours']),
            ]
            for row in rows
        ],
    )
    least = min(row['speedup_of_ours']['median'] for row in rows if row['pipeline'] != OURS)
    print(f'least speed-up {least:.1f}, target {TARGET}: {"ok" if least >= TARGET else "MISSED"}')
    report = dict(machine=machine, num_images=num_images, target=TARGET, rows=rows)
    timing.write_json(args.json, report)


if __name__ == '__main__':
    main()
