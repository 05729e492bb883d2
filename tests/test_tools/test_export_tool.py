"""tools/export.py: the files it writes work where nobody has heard of our hooks."""

import copy
import pickle
import re
import subprocess
import sys

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
    next_commands,
    outputs,
    prune_some,
    run_tool,
    write_small_detector,
)
from torch import nn

from mmpsbn.commands import onnx_file
from mmpsbn.commands.export import export_config, fusible_pairs
from mmpsbn.commands.model_files import LoadedModel, load_model, save_weights
from mmpsbn.engine.input_size import pipeline_size
from mmpsbn.engine.openmmlab import forward_tensors, trace_at_any_size
from mmpsbn.layers import convert_from_psbn
from mmpsbn.models import build_pruned_model, fuse_norms
from mmpsbn.pruning import PrunePlan, trace_channel_graph


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """``small.py``, ``dense.pth``, ``dense_l1.pth``, and the pruned model as ``pruned/``."""
    folder = tmp_path_factory.mktemp('small')
    write_small_detector(folder)
    budget = ('--target-flops', '0.5', '--round-to', '1', '--out', folder, '--device', 'cpu')
    run_tool('prune', folder / 'small.py', folder / 'dense.pth', '--criterion', 'l1', *budget)
    run_tool('export', folder / 'small.py', folder / 'dense_l1.pth', '--out', folder / 'pruned')
    return folder


@pytest.fixture
def export(folder, tmp_path, capsys):
    """Run the tool into ``tmp_path``; returns what it printed."""

    def run(checkpoint, *arguments, config=None):
        run_tool(
            'export',
            config or folder / 'small.py',
            checkpoint if '/' in str(checkpoint) else folder / checkpoint,
            *('--out', tmp_path),
            *arguments,
        )
        return capsys.readouterr().out

    return run


def refusal(export, *arguments, **kwargs):
    with pytest.raises(SystemExit) as stopped:
        export(*arguments, **kwargs)
    message = str(stopped.value)
    assert message.startswith('error: ') and '\n' not in message
    return message


def pair(path):
    return str(path / 'small.py'), str(path / 'small.pth')


def original(folder, checkpoint='dense_l1.pth'):
    return load_model(Config.fromfile(str(folder / 'small.py')), str(folder / checkpoint)).model


def picture(folder, i=0):
    return str(sorted((folder / 'digits/val').iterdir())[i])


def test_init_detector_gives_the_pruned_model_in_its_own_class(folder):
    model, before = init_detector(*pair(folder / 'pruned'), device='cpu'), original(folder)
    assert type(model).__module__ == 'mmdet.models.detectors.retinanet'
    assert model.dataset_meta['classes'] == tuple('0123456789')
    assert {n: p.shape for n, p in model.named_parameters()} == {
        n: p.shape for n, p in before.named_parameters()
    }
    assert_near(outputs(model, images()), outputs(before, images()))
    found = inference_detector(model, picture(folder)).pred_instances
    assert len(found) == 20 and found.scores.isfinite().all()


@pytest.mark.parametrize('with_config', [True, False])
def test_the_inferencer_finds_the_same(folder, with_config):
    config, weights = pair(folder / 'pruned')
    inferencer = DetInferencer(
        config if with_config else None, weights, device='cpu', show_progress=False
    )
    found = inferencer(picture(folder, 1))['predictions'][0]
    model = init_detector(config, weights, device='cpu')
    expected = inference_detector(model, picture(folder, 1)).pred_instances
    assert found['labels'] == expected.labels.tolist()
    assert found['scores'] == expected.scores.tolist()
    np.testing.assert_array_equal(found['bboxes'], expected.bboxes.numpy())


def predictions(config, checkpoint, out):
    """What tools/test.py predicts, as one vector."""
    run_tool('test', config, checkpoint, '--work-dir', out, '--out', out / 'found.pkl')
    found = pickle.loads((out / 'found.pkl').read_bytes())
    assert len(found) == 4
    return torch.cat(
        [torch.cat([f['pred_instances'][k].flatten() for k in ('bboxes', 'scores')]) for f in found]
    )


def test_the_test_tool_predicts_the_same(folder, tmp_path):
    ours = predictions(*pair(folder / 'pruned'), tmp_path / 'ours')
    theirs = predictions(folder / 'small.py', folder / 'dense_l1.pth', tmp_path / 'theirs')
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_what_to_run_next_can_be_pasted_whatever_the_folder_is_called(export, tmp_path):
    out = tmp_path / "blood cells' nets"
    said = export('dense.pth', '--out', out)
    assert next_commands(said) == [['test', *pair(out)]]


def test_the_config_is_what_inference_needs(folder):
    cfg = Config.fromfile(pair(folder / 'pruned')[0])
    assert cfg.custom_imports.imports == ['mmpsbn']
    assert cfg.model.type == 'PrunedModel' and cfg.model.dense_type == 'mmdet.RetinaNet'
    dense = Config.fromfile(str(folder / 'small.py'))
    assert set(cfg.model) - {'dense_type', 'shapes'} == set(dense.model)
    assert cfg.test_dataloader == dense.test_dataloader
    for gone in ('custom_hooks', 'optim_wrapper', 'train_dataloader', 'param_scheduler'):
        assert gone not in cfg
    assert 'psBN' not in cfg.pretty_text and str(folder / 'dense_l1') not in cfg.pretty_text
    checkpoint = torch.load(pair(folder / 'pruned')[1], weights_only=True)
    assert set(checkpoint) == {'meta', 'state_dict'}
    assert set(checkpoint['meta']) == {'cfg', 'dataset_meta'}


WITHOUT_MMPSBN = """
import sys
sys.modules['mmpsbn'] = None
from mmdet.apis import inference_detector, init_detector
model = init_detector(sys.argv[1], sys.argv[2], device='cpu')
print('found', inference_detector(model, sys.argv[3]).pred_instances.scores.tolist())
"""


def test_a_model_that_was_not_pruned_needs_no_mmpsbn(export, folder, tmp_path):
    said = export('dense.pth')
    assert 'needs no mmpsbn' in said and '0 BatchNorms folded' in said
    result = subprocess.run(
        [sys.executable, '-c', WITHOUT_MMPSBN, *pair(tmp_path), picture(folder)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    found = re.search(r'found \[(.*)\]', result.stdout)[1]
    model = init_detector(*pair(tmp_path), device='cpu')
    expected = inference_detector(model, picture(folder)).pred_instances.scores
    torch.testing.assert_close(torch.tensor(list(map(float, found.split(',')))), expected)
    before = original(folder, 'dense.pth')
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


def test_fused_files_hold_no_batch_norm(export, folder, tmp_path):
    assert '23 BatchNorms folded' in export('dense_l1.pth', '--fuse')
    keys = torch.load(tmp_path / 'small.pth', weights_only=True)['state_dict']
    assert not [key for key in keys if 'running' in key]
    model = init_detector(*pair(tmp_path), device='cpu')
    expected = outputs(original(folder), images())
    assert_near(outputs(model, images()), expected)
    with pytest.raises(ValueError, match='backbone.conv1.bias is not in the checkpoint'):
        init_detector(pair(tmp_path)[0], pair(folder / 'pruned')[1], device='cpu')


def test_fusing_is_exact_in_double_precision(folder):
    model, x = original(folder).double(), images().double()
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


def test_onnxruntime_computes_the_same_at_any_batch_size(export, folder, tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    said = export('dense_l1.pth', '--onnx', '--fuse')
    assert 'N x 3 x 128 x 160' in said
    assert float(re.search(r"PyTorch's outputs within (\S+) of", said)[1]) <= 1e-4
    session = onnxruntime.InferenceSession(
        str(tmp_path / 'small.onnx'), providers=['CPUExecutionProvider']
    )
    names = [output.name for output in session.get_outputs()]
    assert names == ['cls_scores_0', 'cls_scores_1', 'bbox_preds_0', 'bbox_preds_1']
    model = init_detector(*pair(tmp_path), device='cpu')
    for count in (1, 3):
        found = session.run(None, {'inputs': images(count).numpy()})
        with torch.no_grad():
            expected = [x for level in forward_tensors(model, images(count)) for x in level]
        for ours, theirs in zip(found, expected, strict=True):
            error = np.abs(ours - theirs.numpy()).max() / theirs.abs().max()
            assert error <= 1e-4


def test_files_that_fail_verification_do_not_appear(export, tmp_path, monkeypatch):
    pytest.importorskip('onnxruntime')
    monkeypatch.setattr(onnx_file, '_error', lambda *_: float('nan'))
    message = refusal(export, 'dense_l1.pth', '--onnx')
    assert 'the outputs of onnxruntime differ from the original by nan' in message
    assert list(tmp_path.iterdir()) == []


def test_without_onnxruntime_it_says_what_to_install(export, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    assert 'setup_env.sh --extras onnx' in refusal(export, 'dense_l1.pth', '--onnx')
    assert list(tmp_path.iterdir()) == []


def test_files_are_overwritten_only_where_asked_for(export, tmp_path):
    (tmp_path / 'small.pth').write_text('mine')
    assert "small.pth' exists; give another --out, or --force" in refusal(export, 'dense_l1.pth')
    assert [p.name for p in tmp_path.iterdir()] == ['small.pth']
    export('dense_l1.pth', '--force')
    assert (tmp_path / 'small.py').exists()


def test_weights_of_another_size_are_an_error_where_mmengine_only_prints(folder):
    config, _ = pair(folder / 'pruned')
    with pytest.raises(ValueError, match=r'has shape \(.*\) in the checkpoint and \(.*\) in the'):
        init_detector(config, str(folder / 'dense.pth'), device='cpu')


def test_an_exported_model_is_pruned_and_exported_again(folder, tmp_path):
    config, weights = pair(folder / 'pruned')
    loaded = load_model(Config.fromfile(config), weights)
    x = images(1)
    plan = prune_some(loaded.model, x)
    save_weights(loaded.model, str(tmp_path / 'again.pth'), mmpsbn=dict(plan=plan.to_dict()))
    run_tool('export', config, tmp_path / 'again.pth', '--out', tmp_path / 'again', '--fuse')
    model = load_model(
        Config.fromfile(str(tmp_path / 'again/small.py')), str(tmp_path / 'again/small.pth')
    ).model
    assert_near(outputs(model, x), outputs(loaded.model, x))


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


@pytest.mark.parametrize(
    'step, size',
    [
        (dict(type='Resize', scale=(1333, 800)), (800, 1344)),
        (dict(type='CenterCrop', crop_size=224), (224, 224)),
        (dict(type='Resize', scale=33), (64, 64)),
    ],
)
def test_the_size_comes_from_the_test_pipeline(step, size):
    wrapped = dict(dataset=dict(dataset=dict(pipeline=[step, dict(type='Pack')])))
    preprocessor = dict(pad_size_divisor=32)
    cfg = Config(dict(model=dict(data_preprocessor=preprocessor), test_dataloader=wrapped))
    assert pipeline_size(cfg) == size


class TestClassifier:
    """mmpretrain's side: a CIFAR ResNet."""

    @pytest.fixture
    def classifier(self, tmp_path):
        pytest.importorskip('mmpretrain')
        config = str(ROOT / 'configs/cifar/resnet20_psbn_cifar10.py')
        cfg = Config.fromfile(config)
        init_default_scope('mmpretrain')
        torch.manual_seed(0)
        model = MODELS.build({**cfg.model, 'data_preprocessor': cfg.data_preprocessor})
        plan = prune_some(model, images(1, 32, 32))
        path = tmp_path / 'pruned.pth'
        classes = dict(classes=list('abcdefghij'))
        save_weights(model, str(path), dataset_meta=classes, mmpsbn=dict(plan=plan.to_dict()))
        return config, path, model.eval()

    def test_the_pair_works_with_mmpretrains_inferencer(self, classifier, export, tmp_path):
        from mmpretrain import ImageClassificationInferencer, get_model

        config, path, before = classifier
        assert 'no fixed size; give --input-size' in refusal(export, path, config=config)
        size = ('--input-size', '32', '32')
        said = export(path, *size, config=config)
        assert '0 BatchNorms' in said
        files = [str(tmp_path / f'resnet20_psbn_cifar10.{end}') for end in ('py', 'pth')]
        model = get_model(files[0], pretrained=files[1])
        x = images(2, 32, 32)
        assert_near(outputs(model, x), outputs(before, x))
        inferencer = ImageClassificationInferencer(files[0], pretrained=files[1], device='cpu')
        picture = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        found = inferencer(picture)[0]
        assert found['pred_class'] in 'abcdefghij' and found['pred_scores'].shape == (10,)

    def test_its_onnx_has_one_output(self, classifier, export, tmp_path):
        pytest.importorskip('onnxruntime')
        config, path, _ = classifier
        said = export(path, '--input-size', '32', '32', '--onnx', '--fuse', config=config)
        assert '19 BatchNorms folded' in said and 'onnxruntime gives' in said
