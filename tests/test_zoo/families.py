"""Which config stands for a family of the zoo, and its model with random weights."""

import re
from pathlib import Path

import mmdet
import mmpretrain
import torch
from mmdet.utils import register_all_modules as register_mmdet
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from mmpretrain.utils import register_all_modules as register_mmpretrain
from torch import Tensor, nn

ROOTS = {
    package.__name__: Path(package.__file__).parent / '.mim/configs'
    for package in (mmdet, mmpretrain)
}
_REGISTER = dict(mmdet=register_mmdet, mmpretrain=register_mmpretrain)
# no model of their own; training methods, prompts and multimodal models, whose backbones are
# families already
_NOT_FAMILIES = dict(
    mmdet=['common', 'dsdl'],
    mmpretrain='arcface barlowtwins beitv2 blip blip2 byol cae chinese_clip clip csra densecl eva '
    'flamingo glip itpn llava mae maskfeat mff milan minigpt4 mocov2 mocov3 ofa otter simclr '
    'simmim simsiam spark swav'.split(),
)
# names of light variants, the first to match is taken
_LIGHT = (
    r'r18|r50|resnet50',
    r'atto|nano|femto|xxs',
    r'tiny|5m|_t_|s0|[-_]b0|-a0|400mf',
    r'small|s12|w18',
    r'base|-b_',
)
# where that rule would take one that stands badly for its family, and families that have no
# folder of their own
_CHOSEN = {
    'mmdet/cascade_rpn': 'cascade_rpn/cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco.py',
    'mmdet/dcn': 'dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py',
    'mmdet/dcnv2': 'dcnv2/faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco.py',
    'mmdet/detectors': 'detectors/detectors_cascade-rcnn_r50_1x_coco.py',
    'mmdet/gcnet': 'gcnet/mask-rcnn_r50-gcb-r4-c3-c5_fpn_1x_coco.py',
    'mmdet/guided_anchoring': 'guided_anchoring/ga-retinanet_r50_fpn_1x_coco.py',
    'mmdet/hrnet': 'hrnet/faster-rcnn_hrnetv2p-w18-1x_coco.py',
    'mmdet/libra_rcnn': 'libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py',
    'mmdet/nas_fpn': 'nas_fpn/retinanet_r50_nasfpn_crop640-50e_coco.py',
    'mmdet/pvt': 'pvt/retinanet_pvt-t_fpn_1x_coco.py',
    'mmdet/regnet': 'regnet/mask-rcnn_regnetx-400MF_fpn_ms-poly-3x_coco.py',
    'mmdet/res2net': 'res2net/faster-rcnn_res2net-101_fpn_2x_coco.py',
    'mmdet/sort': 'sort/faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval.py',
    'mmdet/ssd_lite': 'ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py',
    'mmpretrain/beit': 'beit/benchmarks/beit-base-p16_8xb64_in1k.py',
    'mmpretrain/cspdarknet': 'cspnet/cspdarknet50_8xb32_in1k.py',
    'mmpretrain/cspresnext': 'cspnet/cspresnext50_8xb32_in1k.py',
    'mmpretrain/mixmim': 'mixmim/benchmarks/mixmim-base_8xb64_in1k.py',
    'mmpretrain/mobilenet_v3': 'mobilenet_v3/mobilenet-v3-small_8xb128_in1k.py',
    'mmpretrain/resnet': 'resnet/resnet18_8xb32_in1k.py',
    'mmpretrain/resnet_cifar': 'resnet/resnet18_8xb16_cifar10.py',
    'mmpretrain/resnetv1d': 'resnet/resnetv1d50_8xb32_in1k.py',
    'mmpretrain/seresnext': 'seresnet/seresnext50-32x4d_8xb32_in1k.py',
    'mmpretrain/twins_pcpvt': 'twins/twins-pcpvt-small_8xb128_in1k.py',
    'mmpretrain/vgg': 'vgg/vgg11_8xb32_in1k.py',
    'mmpretrain/vgg_bn': 'vgg/vgg11bn_8xb32_in1k.py',
}


def family_names() -> list[str]:
    """Every family, as ``package/folder``."""
    folders = {
        f'{package}/{folder.name}'
        for package, root in ROOTS.items()
        for folder in root.iterdir()
        if folder.is_dir() and not folder.name.startswith('_')
    }
    left_out = {f'{package}/{name}' for package, names in _NOT_FAMILIES.items() for name in names}
    return sorted((folders - left_out) | set(_CHOSEN))


def config_of(family: str) -> Path:
    """The config that stands for a family: the shortest name among its lightest variants."""
    package, _, folder = family.partition('/')
    if family in _CHOSEN:
        return ROOTS[package] / _CHOSEN[family]
    paths = sorted((ROOTS[package] / folder).glob('*.py'))
    if not paths:
        raise FileNotFoundError(f'{family}: no config in {ROOTS[package] / folder}')

    def weight(path: Path) -> tuple[int, int]:
        name = path.stem.lower()
        light = [i for i, pattern in enumerate(_LIGHT) if re.search(pattern, name)]
        return min(light, default=len(_LIGHT)), len(name)

    return min((p for p in paths if not p.name.startswith('_')), key=weight)


def model_cfg_of(config: Path) -> dict:
    """Of what is trained to detect or classify; nothing is downloaded."""
    package = next(name for name, root in ROOTS.items() if root in config.parents)
    _REGISTER[package]()
    return _trained_part(_offline(Config.fromfile(config, lazy_import=False).model))


def build_model(config: Path, seed: int) -> nn.Module:
    """The model of a config with random weights, float64, in eval mode."""
    torch.manual_seed(seed)
    model = MODELS.build(model_cfg_of(config))
    model.init_weights()
    model = revert_sync_batchnorm(model).double().eval()
    _randomize_constants_(model)
    return model


def _offline(cfg):
    """The config without what loads weights or needs a process group."""
    if isinstance(cfg, dict):
        if 'checkpoint' in (cfg.get('init_cfg') or ()):
            cfg['init_cfg'] = None
        for key in ('pretrained', 'checkpoint', 'teacher_ckpt'):
            cfg.pop(key, None)
        if cfg.get('type') == 'MMSyncBN':
            cfg['type'] = 'SyncBN'
        for key, value in cfg.items():
            cfg[key] = _offline(value)
    elif isinstance(cfg, (list, tuple)):
        cfg = type(cfg)(_offline(value) for value in cfg)
    return cfg


def _trained_part(cfg: dict) -> dict:
    """What is trained to detect: the detector of a tracker or of a semi-supervised pair, the
    student without its teacher, the image side of a model that reads text (which needs the
    package transformers)."""
    if 'type' in cfg.get('detector', {}):
        cfg = cfg['detector']
    if 'language_model' in cfg:
        return dict(type='TwoStageDetector', backbone=cfg['backbone'], neck=cfg['neck'])
    if any('teacher' in key for key in cfg):
        cfg = {key: value for key, value in cfg.items() if 'teacher' not in key}
        cfg['type'] = 'SingleStageDetector'
    return cfg


@torch.no_grad()
def _randomize_constants_(model: nn.Module) -> None:
    """Give random values to what starts as a constant.

    A scale of 1 or 1e-6, a bias or an offset of 0 would hide mistakes.
    """
    for module in model.modules():
        is_norm = hasattr(module, 'eps')
        if is_norm and module.eps == 0:  # NAS-FCOS; torch 2.11 refuses it
            module.eps = 1e-5
        for name, tensor in module._parameters.items():
            if tensor is None or not tensor.is_floating_point() or tensor.min() < tensor.max():
                continue
            if name.endswith('weight') and is_norm or tensor.numel() == 1 or tensor.any():
                tensor.uniform_(0.5, 1.5)
            else:
                tensor.normal_(0, 0.05)
    for name, module in model.named_modules():
        # sampling far from where it was makes chaos of deformable convolutions
        if 'offset' in name.rpartition('.')[2] and isinstance(module, nn.Conv2d):
            module.weight.mul_(0.02)


@torch.no_grad()
def calibrate_(model: nn.Module, forward) -> None:
    """Running statistics near those of the features, so that depth neither blows them up nor
    lets them vanish."""

    def calibrate(norm, args) -> None:
        dims = [d for d in range(args[0].dim()) if d != 1]
        variance = args[0].var(dims, correction=0)
        norm.running_mean.copy_(args[0].mean(dims)).add_(torch.randn_like(norm.running_mean) / 10)
        norm.running_var.copy_(torch.where(variance > 1e-6, variance, 1.0))
        norm.running_var.mul_(torch.empty_like(variance).uniform_(0.7, 1.4))

    handles = [
        module.register_forward_pre_hook(calibrate)
        for module in model.modules()
        if isinstance(getattr(module, 'running_var', None), Tensor)
    ]
    try:
        forward(model)
    finally:
        for handle in handles:
            handle.remove()
