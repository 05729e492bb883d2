"""Does the data a config names exist? Asked before any model is built."""

import inspect
import os.path as osp

from mmengine.registry import DATASETS


def check_data_paths(cfg, *, splits):
    """Raise FileNotFoundError for the first data path of `splits` that does not exist.

    A split is 'train', 'val' or 'test'. Looks at data_root, ann_file and data_prefix of every data
    set (inside wrappers and concatenations too) and at the evaluators' ann_file. Passes over what
    is not a local path and over data sets that download themselves.
    """
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if loader is None:
            continue
        for key, dataset in leaf_datasets(loader.get('dataset'), f'{split}_dataloader.dataset'):
            if _is_remote(dataset) or _downloads_itself(dataset, cfg.get('default_scope')):
                continue
            for field, path in _dataset_paths(dataset):
                _check_path(path, f'{key}.{field}', cfg)
        evaluators = cfg.get(f'{split}_evaluator')
        several = isinstance(evaluators, (list, tuple))
        for i, evaluator in enumerate(evaluators if several else [evaluators]):
            ann_file = evaluator.get('ann_file') if isinstance(evaluator, dict) else None
            if ann_file and not _is_remote(evaluator):
                index = f'.{i}' if several else ''
                _check_path(ann_file, f'{split}_evaluator{index}.ann_file', cfg)


def leaf_datasets(dataset, key):
    """Yield (config key, dataset config) for every data set below RepeatDataset and the like; a
    ConcatDataset has several."""
    if not isinstance(dataset, dict):
        return
    if 'dataset' in dataset:
        yield from leaf_datasets(dataset['dataset'], f'{key}.dataset')
    elif 'datasets' in dataset:
        for i, part in enumerate(dataset['datasets']):
            yield from leaf_datasets(part, f'{key}.datasets.{i}')
    else:
        yield key, dataset


def _is_remote(cfg):
    backend = cfg.get('backend_args') or cfg.get('file_client_args') or {}
    return backend.get('backend', 'local') not in ('local', 'disk')


def _downloads_itself(dataset, scope):
    """Whether the class has a `download` switch (mmpretrain's CIFAR and MNIST) and it is on."""
    try:
        cls = dataset['type']
        if isinstance(cls, str):
            with DATASETS.switch_scope_and_registry(scope) as registry:
                cls = registry.get(cls)
        switch = inspect.signature(cls.__init__).parameters.get('download')
    except Exception:  # an unknown type is the builder's error to tell, not ours
        return False
    return switch is not None and dataset.get('download', switch.default) is True


def _dataset_paths(dataset):
    """Yield (field, path) as BaseDataset will join them.

    The root comes first, so that the message names what is wrong at the top.
    """
    root = dataset.get('data_root') or ''
    if root:
        yield 'data_root', root
    ann_files = dataset.get('ann_file') or []
    for ann_file in [ann_files] if isinstance(ann_files, str) else ann_files:
        yield 'ann_file', osp.join(root, ann_file)
    prefix = dataset.get('data_prefix') or {}
    for name, path in prefix.items() if isinstance(prefix, dict) else [(None, prefix)]:
        if isinstance(path, str) and path:
            yield f'data_prefix.{name}' if name else 'data_prefix', osp.join(root, path)


def _check_path(path, key, cfg):
    if '://' in path or osp.exists(path):
        return
    hint = cfg.get('data_hint')
    if hint is None and 'coco' in path.replace('\\', '/').split('/'):
        hint = (
            'get COCO 2017 with '
            '`pip install openmim && python -m mim download mmdet --dataset coco2017` '
            'or from the COCO data set page, or set this key to where you have it'
        )
    hint = hint or 'get the data set, then set this key to where it lies'
    raise FileNotFoundError(f'{path!r} ({key}) does not exist: {hint}')
