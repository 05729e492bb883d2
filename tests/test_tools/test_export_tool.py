"""mmpsbn export: the files it writes work where nobody has heard of our hooks."""

import copy
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import toy  # noqa: F401  (registers ToyNet)
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from small_detector import (
    ROOT,
    assert_near,
    images,
    load,
    next_commands,
    outputs,
    prune_some,
    refusal,
    run,
)
from torch import nn

from mmpsbn.commands import export as export_module
from mmpsbn.commands.export import export_config, fusible_pairs
from mmpsbn.commands.model_files import LoadedModel, save_weights
from mmpsbn.engine.input_size import pipeline_size
from mmpsbn.engine.openmmlab import forward_tensors, trace_at_any_size
from mmpsbn.layers import convert_from_psbn
from mmpsbn.models import build_pruned_model, check_state_dict, fuse_norms
from mmpsbn.pruning import PrunePlan, trace_channel_graph


@pytest.fixture(scope='module')
def pruned(small, tmp_path_factory):
    """Folder of ``dense_l1.pth`` and the ``small.py`` and ``small.pth`` exported of it."""
    folder = tmp_path_factory.mktemp('pruned')
    options = ('--criterion', 'l1', '--target-flops', '0.5', '--out', folder, '--device', 'cpu')
    run('prune', small / 'small.py', small / 'dense.pth', *options)
    run('export', small / 'small.py', folder / 'dense_l1.pth', '--out', folder)
    return folder


@pytest.fixture(scope='module')
def original(small, pruned):
    """The model that was exported."""
    return load(small / 'small.py', pruned / 'dense_l1.pth').model


def pair(folder):
    return str(folder / 'small.py'), str(folder / 'small.pth')


def picture(small, i=0):
    return str(sorted((small / 'digits/val').iterdir())[i])


def test_mmdet_runs_the_pruned_model_in_its_own_class(small, pruned, original):
    config, weights = pair(pruned)
    model = init_detector(config, weights, device='cpu')
    assert type(model).__module__ == 'mmdet.models.detectors.retinanet'
    assert model.dataset_meta['classes'] == tuple('0123456789')
    assert {n: p.shape for n, p in model.named_parameters()} == {
        n: p.shape for n, p in original.named_parameters()
    }
    assert_near(outputs(model, images()), outputs(original, images()))
    expected = inference_detector(model, picture(small)).pred_instances
    assert len(expected) == 20 and expected.scores.isfinite().all()
    for path in (config, None):
        inferencer = DetInferencer(path, weights, device='cpu', show_progress=False)
        found = inferencer(picture(small))['predictions'][0]
        assert found['labels'] == expected.labels.tolist()
        assert found['scores'] == expected.scores.tolist()
        np.testing.assert_array_equal(found['bboxes'], expected.bboxes.numpy())


def predictions(config, checkpoint, out):
    """What mmpsbn test predicts, as one vector."""
    run('test', config, checkpoint, '--work-dir', out, '--out', out / 'found.pkl')
    found = pickle.loads((out / 'found.pkl').read_bytes())
    assert len(found) == 4
    return torch.cat(
        [torch.cat([f['pred_instances'][k].flatten() for k in ('bboxes', 'scores')]) for f in found]
    )


@pytest.mark.slow
def test_mmpsbn_test_predicts_the_same(small, pruned, tmp_path):
    ours = predictions(*pair(pruned), tmp_path / 'ours')
    theirs = predictions(small / 'small.py', pruned / 'dense_l1.pth', tmp_path / 'theirs')
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_config_is_what_inference_needs(small, pruned):
    cfg, dense = (Config.fromfile(str(folder / 'small.py')) for folder in (pruned, small))
    assert cfg.custom_imports.imports == ['mmpsbn']
    assert cfg.model.type == 'PrunedModel' and cfg.model.dense_type == 'mmdet.RetinaNet'
    assert set(cfg.model) - {'dense_type', 'shapes'} == set(dense.model)
    assert cfg.test_dataloader == dense.test_dataloader
    assert cfg.val_dataloader == dense.val_dataloader  # mmdet's get_flops asks for it
    for gone in ('custom_hooks', 'optim_wrapper', 'train_dataloader', 'param_scheduler'):
        assert gone not in cfg
    text = Path(pair(pruned)[0]).read_text()
    assert 'psBN' not in text and 'dense_l1' not in text
    checkpoint = torch.load(pair(pruned)[1], weights_only=True)
    assert set(checkpoint) == {'meta', 'state_dict'}
    assert set(checkpoint['meta']) == {'cfg', 'dataset_meta'}


WITHOUT_MMPSBN = """
import sys
sys.modules['mmpsbn'] = None
from mmdet.apis import inference_detector, init_detector
model = init_detector(sys.argv[1], sys.argv[2], device='cpu')
print('found', inference_detector(model, sys.argv[3]).pred_instances.scores.tolist())
"""


@pytest.mark.slow
def test_a_model_that_was_not_pruned_needs_no_mmpsbn(small, tmp_path):
    said = run('export', small / 'small.py', small / 'dense.pth', '--out', tmp_path)
    assert 'needs no mmpsbn' in said and '0 BatchNorms folded' in said
    result = subprocess.run(
        [sys.executable, '-c', WITHOUT_MMPSBN, *pair(tmp_path), picture(small)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    found = re.search(r'found \[(.*)\]', result.stdout)[1]
    model = init_detector(*pair(tmp_path), device='cpu')
    expected = inference_detector(model, picture(small)).pred_instances.scores
    torch.testing.assert_close(torch.tensor(list(map(float, found.split(',')))), expected)
    before = load(small / 'small.py', small / 'dense.pth').model
    assert_near(outputs(model, images()), outputs(before, images()))


INHERITED = """
_base_ = ['mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', 'mmpsbn::_base_/psbn.py']
model = dict(backbone=dict(norm_cfg=_base_.psbn))
"""


def test_a_norm_inherited_from_our_configs_leaves_our_scope_behind(tmp_path):
    (tmp_path / 'inherited.py').write_text(INHERITED)
    cfg = Config.fromfile(str(tmp_path / 'inherited.py'))
    init_default_scope('mmdet')
    loaded = LoadedModel(nn.Identity(), PrunePlan({}, {}), None)
    assert cfg.model.backbone.norm_cfg['_scope_'] == 'mmpsbn'
    exported = export_config(cfg, loaded, {})
    assert exported['model']['backbone']['norm_cfg'] == dict(type='BN', requires_grad=True)
    assert exported['model']['backbone']['init_cfg'] is None
    assert 'custom_imports' not in exported


def test_fused_and_as_onnx_at_any_batch_size(small, pruned, original, tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    arguments = (small / 'small.py', pruned / 'dense_l1.pth', '--out', tmp_path)
    said = run('export', *arguments, '--onnx', '--fuse')
    assert '23 BatchNorms folded' in said and 'N x 3 x 128 x 160' in said
    assert float(re.search(r"PyTorch's outputs within (\S+) of", said)[1]) <= 1e-4
    keys = torch.load(tmp_path / 'small.pth', weights_only=True)['state_dict']
    assert not [key for key in keys if 'running' in key]
    model = init_detector(*pair(tmp_path), device='cpu')
    assert_near(outputs(model, images()), outputs(original, images()))
    with pytest.raises(ValueError, match='backbone.conv1.bias is not in the checkpoint'):
        init_detector(pair(tmp_path)[0], pair(pruned)[1], device='cpu')
    session = onnxruntime.InferenceSession(
        str(tmp_path / 'small.onnx'), providers=['CPUExecutionProvider']
    )
    names = [output.name for output in session.get_outputs()]
    assert names == ['cls_scores_0', 'cls_scores_1', 'bbox_preds_0', 'bbox_preds_1']
    for count in (1, 3):
        found = session.run(None, {'inputs': images(count).numpy()})
        with torch.no_grad():
            expected = [x for level in forward_tensors(model, images(count)) for x in level]
        for ours, theirs in zip(found, expected, strict=True):
            assert np.abs(ours - theirs.numpy()).max() <= 1e-4 * theirs.abs().max()


def test_fusing_is_exact_in_double_precision(original):
    model, x = copy.deepcopy(original).double(), images().double()
    before = outputs(model, x)
    model = convert_from_psbn(model)
    pairs = fusible_pairs(model, trace_at_any_size(model, x)[0])
    fuse_norms(model, pairs)
    assert len(pairs) == 23
    assert_near(outputs(model, x), before, tolerance=1e-12)


def test_a_convolution_with_two_norms_is_not_fused():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.shared = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)
            self.norm, self.left, self.right = map(nn.BatchNorm2d, (4, 5, 5))

        def forward(self, x):
            x = self.norm(self.conv(x)).relu()
            return self.left(self.shared(x)), self.right(self.shared(x + 1))

    model = Net()
    graph = trace_channel_graph(model, torch.randn(1, 3, 4, 4), lambda m, x: m(x))
    assert fusible_pairs(model, graph) == dict(conv='norm')


def test_files_that_fail_verification_do_not_appear(small, pruned, tmp_path, monkeypatch):
    pytest.importorskip('onnxruntime')
    arguments = ('export', small / 'small.py', pruned / 'dense_l1.pth', '--out', tmp_path, '--onnx')
    with monkeypatch.context() as patch:
        patch.setattr(export_module, 'write_onnx', lambda *_: float('nan'))
        message = refusal(run, *arguments)
    assert 'the outputs of onnxruntime differ from the original by nan' in message
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    assert 'run pip install onnx onnxruntime' in refusal(run, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_files_are_overwritten_only_where_asked_for(small, pruned, tmp_path):
    out = tmp_path / "blood cells' nets"
    out.mkdir()
    (out / 'small.pth').write_text('mine')
    arguments = ('export', small / 'small.py', pruned / 'dense_l1.pth', '--out', out)
    assert 'small.pth" exists; give another --out, or --force' in refusal(run, *arguments)
    assert [p.name for p in out.iterdir()] == ['small.pth']
    assert next_commands(run(*arguments, '--force')) == [['test', *pair(out)]]
    assert (out / 'small.py').exists()


def test_weights_of_another_size_are_an_error_where_mmengine_only_prints(small, pruned):
    with pytest.raises(ValueError, match=r'has shape \(.*\) in the checkpoint and \(.*\) in the'):
        init_detector(pair(pruned)[0], str(small / 'dense.pth'), device='cpu')


@pytest.mark.slow
def test_an_exported_model_is_pruned_and_exported_again(pruned, tmp_path):
    config, weights = pair(pruned)
    loaded = load(config, weights)
    x = images(1)
    plan = prune_some(loaded.model, x)
    save_weights(loaded.model, str(tmp_path / 'again.pth'), mmpsbn=dict(plan=plan.to_dict()))
    run('export', config, tmp_path / 'again.pth', '--out', tmp_path, '--fuse')
    assert_near(outputs(load(*pair(tmp_path)).model, x), outputs(loaded.model, x))


@pytest.mark.parametrize(
    'shapes, message',
    [
        ({'conv9.weight': [4]}, 'cannot give conv9.weight the shape .*: the dense model lacks it'),
        ({'stem.weight': [9, 3, 3, 3]}, r'stem.weight .*: the dense model has \(8, 3, 3, 3\)'),
        ({'stem.weight': [0, 3, 3, 3]}, r'shape \(0, 3, 3, 3\): the dense model has'),
        ({'stem.weight': [8]}, r'shape \(8,\): the dense model has'),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes, message):
    init_default_scope('mmengine')
    with pytest.raises(ValueError, match=message):
        MODELS.build(dict(type='PrunedModel', dense_type='ToyNet', shapes=shapes))


def test_a_pruned_model_copies_and_moves_as_any_other():
    init_default_scope('mmengine')
    model = build_pruned_model('ToyNet', {'blocks.0.conv1.weight': [5, 8, 3, 3]})
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        other.load_state_dict(model.state_dict())
        with pytest.raises(ValueError, match='stem.weight is not in the checkpoint'):
            other.load_state_dict({}, strict=False)


def test_a_norm_layer_may_lack_its_count_of_batches():
    """As in checkpoints that PyTorch before 0.4.1 wrote."""
    model = build_pruned_model('ToyNet', {})
    state = model.state_dict()
    counts = [name for name in state if name.endswith('num_batches_tracked')]
    assert counts
    old = {name: tensor for name, tensor in state.items() if name not in counts}
    check_state_dict(model, old)
    old.pop('stem.weight')
    with pytest.raises(ValueError, match='stem.weight is not in the checkpoint'):
        check_state_dict(model, old)


@pytest.mark.parametrize(
    'step, size',
    [
        (dict(type='Resize', scale=(1333, 800)), (800, 1344)),
        (dict(type='CenterCrop', crop_size=224), (224, 224)),
        (dict(type='Resize', scale=33), (64, 64)),
    ],
)
@pytest.mark.parametrize('outer', [None, 'datasets', 'mixed'])
def test_the_size_comes_from_the_test_pipeline(step, size, outer):
    inner = dict(dataset=dict(pipeline=[step, dict(type='Pack')]))
    mixed = dict(dataset=inner, pipeline=[dict(type='Pack')])  # MultiImageMixDataset
    outside = dict(datasets=dict(datasets=[inner, inner], pipeline=None), mixed=mixed)
    wrapped = dict(dataset=outside.get(outer, inner))
    preprocessor = dict(pad_size_divisor=32)
    cfg = Config(dict(model=dict(data_preprocessor=preprocessor), test_dataloader=wrapped))
    assert pipeline_size(cfg) == size


@pytest.mark.slow
def test_a_model_of_gray_pictures(tmp_path):
    config = tmp_path / 'gray.py'
    backbone = dict(type='ResNet_CIFAR', depth=18, in_channels=1, base_channels=8, stem_channels=8)
    head = dict(type='LinearClsHead', num_classes=3, in_channels=64)
    parts = dict(backbone=backbone, neck=dict(type='GlobalAveragePooling'), head=head)
    cfg = dict(default_scope='mmpretrain', model=dict(type='ImageClassifier', **parts))
    Config(cfg).dump(str(config))
    init_default_scope('mmpretrain')
    save_weights(MODELS.build(cfg['model']), str(tmp_path / 'gray.pth'))
    size = ('--input-size', '32', '32')
    said = run('export', config, tmp_path / 'gray.pth', '--out', tmp_path / 'out', '--onnx', *size)
    assert 'N x 1 x 32 x 32' in said
    run('report', config, tmp_path / 'gray.pth', '--out', tmp_path / 'page', *size)
    (page,) = (tmp_path / 'page').glob('*.html')
    assert 'not traced' not in page.read_text()


@pytest.mark.slow
def test_a_classifier_works_with_mmpretrains_inferencer_and_as_onnx(tmp_path):
    mmpretrain = pytest.importorskip('mmpretrain')
    pytest.importorskip('onnxruntime')
    config = str(ROOT / 'configs/cifar/resnet20_psbn_cifar10.py')
    cfg = Config.fromfile(config)
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    before = MODELS.build({**cfg.model, 'data_preprocessor': cfg.data_preprocessor})
    plan = prune_some(before, images(1, 32, 32))
    path = tmp_path / 'pruned.pth'
    classes = dict(classes=list('abcdefghij'))
    save_weights(before, str(path), dataset_meta=classes, mmpsbn=dict(plan=plan.to_dict()))
    arguments = ('export', config, path, '--out', tmp_path, '--fuse')
    assert 'no fixed size; give --input-size' in refusal(run, *arguments)
    said = run(*arguments, '--onnx', '--input-size', '32', '32')
    assert '19 BatchNorms folded' in said and 'onnxruntime gives' in said
    files = [str(tmp_path / f'resnet20_psbn_cifar10.{end}') for end in ('py', 'pth')]
    model, x = mmpretrain.get_model(files[0], pretrained=files[1]), images(2, 32, 32)
    assert_near(outputs(model, x), outputs(before.eval(), x))
    inferencer = mmpretrain.ImageClassificationInferencer(
        files[0], pretrained=files[1], device='cpu'
    )
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    found = inferencer(pixels)[0]
    assert found['pred_class'] in 'abcdefghij' and found['pred_scores'].shape == (10,)
