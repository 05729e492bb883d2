"""Every config parses, builds, and takes one training step at a small size, inherited as by another
project: MMEngine then gives its parts the scope ``mmpsbn``."""

import copy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, MODELS, PARAM_SCHEDULERS, init_default_scope
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from PIL import Image

import mmpsbn  # noqa: F401
from mmpsbn.layers import PostShift

ROOT = Path(__file__).parents[1] / 'configs'
CONFIGS = sorted(str(p.relative_to(ROOT)) for p in ROOT.rglob('*.py') if '_base_' not in p.parts)


def without_pretrained(node) -> None:
    """Weights are fetched from the network; a test has none."""
    if isinstance(node, dict):
        init = node.get('init_cfg')
        if isinstance(init, dict) and init.get('type') == 'Pretrained':
            node['init_cfg'] = None
        for child in node.values():
            without_pretrained(child)


def detection_batch(classes: int) -> dict:
    from mmdet.structures import DetDataSample

    sizes = dict(img_shape=(64, 96), ori_shape=(64, 96), scale_factor=(1.0, 1.0))
    boxes = torch.tensor([[8.0, 8.0, 60.0, 50.0], [30.0, 10.0, 50.0, 30.0]])
    samples = [DetDataSample(metainfo=sizes) for _ in range(2)]
    for sample in samples:
        labels = torch.randint(0, classes, (2,))
        sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
    images = [torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8) for _ in range(2)]
    return dict(inputs=images, data_samples=samples)


def classification_batch(classes: int) -> dict:
    from mmpretrain.structures import DataSample

    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    samples = [DataSample().set_gt_label(i % classes) for i in range(4)]
    return dict(inputs=images, data_samples=samples)


@cache
def parsed(name: str) -> Config:
    if '/' not in name:  # MMEngine knows ``package::folder/file.py`` alone
        return Config.fromfile(str(ROOT / name))
    return Config.fromstring(f"_base_ = 'mmpsbn::{name}'", '.py')


def read(name: str) -> Config:
    return copy.deepcopy(parsed(name))


# two seconds each; retinanet_psbn.py stands for them
LARGE = [name for name in CONFIGS if any(net in name for net in ('_r50_', 'resnet50_', 'vit_'))]


@pytest.mark.parametrize(
    'name', [pytest.param(n, marks=pytest.mark.slow if n in LARGE else ()) for n in CONFIGS]
)
def test_a_config_trains_one_step_and_says_psbn_in_its_name_where_it_uses_it(name):
    config = read(name)
    init_default_scope(config.default_scope)
    without_pretrained(config.model)
    torch.manual_seed(0)
    # mmpretrain's configs have it beside the model, and the runner puts it there
    preprocessor = dict(data_preprocessor=config.get('data_preprocessor'))
    model = MODELS.build(dict(preprocessor, **config.model))
    shifted = any(isinstance(module, PostShift) for module in model.modules())
    assert shifted == ('ps' in Path(name).stem)
    model.init_weights()
    model.train()
    if config.default_scope == 'mmdet':
        batch = detection_batch(config.model.bbox_head.num_classes)
    else:
        batch = classification_batch(config.model.head.num_classes)
    config.optim_wrapper.pop('accumulative_counts', None)  # the one step is to come
    config.optim_wrapper.optimizer.lr = 1.0  # the smallest gradient shows
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    losses = model.train_step(batch, wrapper)
    assert all(torch.as_tensor(loss).isfinite() for loss in losses.values())
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    moved = [n for n, p in trainable.items() if not torch.equal(before[n], p)]
    assert len(moved) > 0.8 * len(trainable)


@pytest.mark.parametrize('name', CONFIGS)
def test_a_config_watches_sparsity_and_its_hooks_build(name):
    hooks = [type(HOOKS.build(hook)).__name__ for hook in read(name).custom_hooks]
    assert ('SparsityHook' in hooks) == ('vit_' not in name)  # which has no scale to look at
    masked = 'unstructured' in name
    assert ('DemPHook' in hooks) == ('demp' in name and not masked or 'budget' in name)
    assert ('SparseWeightsHook' in hooks) == masked


@pytest.mark.parametrize('name', [name for name in CONFIGS if 'ablations' in name])
def test_an_ablation_changes_one_setting_of_demp(name):
    base = read('demp_cls/resnet18_sgdm_cifar10.py')
    config = read(name)
    *others, demp = config.custom_hooks
    (group,) = set(demp) - {'type', '_scope_'}
    assert [*others, dict(type=demp.type, _scope_='mmpsbn')] == base.custom_hooks
    assert HOOKS.build(demp) is not None and group in ('penalty', 'noise', 'schedule')
    config.custom_hooks = base.custom_hooks
    assert config.to_dict() == base.to_dict()


@pytest.mark.parametrize('net', ['resnet18', 'vgg16', 'resnet50'])
def test_adam_and_sgdm_share_the_rest(net):
    data = 'imagenet' if net == 'resnet50' else 'cifar10'
    adam, sgdm = (read(f'demp_cls/{net}_{kind}_{data}.py') for kind in ('adam', 'sgdm'))
    assert (adam.optim_wrapper.optimizer.type, adam.optim_wrapper.optimizer.lr) == ('AdamW', 0.005)
    assert (sgdm.optim_wrapper.optimizer.type, sgdm.optim_wrapper.optimizer.lr) == ('SGD', 0.1)
    for key in ('model', 'train_dataloader', 'train_cfg'):
        assert adam[key] == sgdm[key], key


def test_the_schedules_of_demp():
    """Learning rates by epoch, of the paper's appendix I."""

    def rates(name, epochs):
        config = read(f'demp_cls/{name}.py')
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        optimizer.param_groups[0]['lr'] = config.optim_wrapper.optimizer.lr
        assert config.train_cfg.max_epochs == epochs
        settings = config.param_scheduler
        built = []
        for scheduler in settings if isinstance(settings, list) else [settings]:
            scheduler.pop('convert_to_iter_based', None)  # by epoch, for the test
            built.append(PARAM_SCHEDULERS.build(dict(scheduler, optimizer=optimizer)))
        found = []
        for _ in range(epochs):
            found.append(optimizer.param_groups[0]['lr'])
            optimizer.step()
            for scheduler in built:
                scheduler.step()
        return found

    rate = rates('resnet18_sgdm_cifar10', 250)
    assert [rate[e] for e in (0, 76, 77, 154, 231)] == pytest.approx([0.1, 0.1, 0.02, 4e-3, 8e-4])
    rate = rates('resnet50_adam_imagenet', 100)
    assert [rate[e] for e in (29, 30, 70, 90)] == pytest.approx([5e-3, 5e-4, 5e-5, 5e-6])
    rate = rates('vgg16_sgdm_cifar10', 80)
    assert max(rate) == pytest.approx(0.1, rel=1e-2) and rate[0] < 0.01 > rate[-1]
    rate = rates('vit_b16_imagenet', 150)
    assert rate[0] == pytest.approx(9.9e-5) and max(rate) == pytest.approx(3e-3) == rate[16]
    assert rate[-1] < 1e-5


def test_vit_b16_is_torchvisions():
    """Not mmpretrain's, which has dropout and a hidden layer in the head."""
    config = read('demp_cls/vit_b16_imagenet.py')
    init_default_scope('mmpretrain')
    with torch.device('meta'):
        model, theirs = MODELS.build(config.model), torchvision.models.vit_b_16()
    count, expected = (sum(p.numel() for p in net.parameters()) for net in (model, theirs))
    assert count == expected == 86_567_656
    assert not any(isinstance(m, torch.nn.Dropout) and m.p for m in model.modules())
    assert model.head.loss_module.label_smooth_val == 0.11


def test_the_main_config_is_mmdets_own_but_for_the_norm():
    ours = read('retinanet_psbn.py')
    theirs = read('retinanet/retinanet_r50_bn_800px.py')
    assert ours.model.backbone.pop('norm_cfg') == dict(type='psBN', alpha=0.1, requires_grad=True)
    assert theirs.model.backbone.pop('norm_cfg').type == 'BN'
    assert ours.model == theirs.model
    for key in ('train_dataloader', 'val_evaluator', 'param_scheduler', 'optim_wrapper'):
        assert ours[key] == theirs[key], key
    assert ours.auto_scale_lr.base_batch_size == 16


@pytest.mark.parametrize('norm', ['bn', 'psbn'])
def test_the_500_pixel_configs_differ_in_the_image_size_alone(norm):
    small, large = (read(f'retinanet/retinanet_r50_{norm}_{n}px.py') for n in (500, 800))
    assert small.model == large.model
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        pipelines = [cfg[loader].dataset.pipeline for cfg in (small, large)]
        assert [step.type for step in pipelines[0]] == [step.type for step in pipelines[1]]
        sizes = [step.scale for p in pipelines for step in p if step.type == 'Resize']
        assert sizes == [(833, 500), (1333, 800)]


@pytest.mark.parametrize(
    'name', [n for n in CONFIGS if n.startswith('cifar/') and 'psbn_cifar10.py' not in n]
)
def test_the_loaders_of_the_cifar_configs_serve_pictures(name, tmp_path):
    """The sets are replaced by a folder of a few; the rest of each config is as it is."""
    config = read(name)
    init_default_scope(config.default_scope)
    preprocessor = MODELS.build(config.data_preprocessor)
    for split, key in (('train', 'train_dataloader'), ('test', 'val_dataloader')):
        for label in 'ab':
            (tmp_path / split / label).mkdir(parents=True)
            for i in range(3):
                picture = Image.fromarray(np.full((32, 32, 3), 80 * i, np.uint8))
                picture.save(tmp_path / split / label / f'{i}.png')
        loader_config, innermost = config[key], config[key].dataset
        while 'dataset' in innermost:
            innermost = innermost.dataset
        assert innermost.split == split
        innermost.update(source='folder', data_root=str(tmp_path))
        loader_config.batch_size = 4
        batches = list(Runner.build_dataloader(loader_config, seed=0))
        assert [len(batch['inputs']) for batch in batches] == [4, 2]
        data = preprocessor(batches[0], training=split == 'train')
        assert data['inputs'].shape == (4, 3, 32, 32) and data['inputs'].dtype == torch.float32
        assert len(data['data_samples']) == 4
    assert config.test_dataloader.dataset.split == 'test'
