"""tools/from_seed.py: seed and trained values go in, an ordinary checkpoint comes out."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from small_detector import load, next_commands, refusal, run_tool

from mmpsbn.models import TrainedParts, draw_model, pack_seed_checkpoint

CONFIG = """
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmpsbn'], allow_failed_imports=False)
data_preprocessor = dict(mean=[127.5] * 3, std=[60.0] * 3, num_classes=10)
model = dict(
    type='ImageClassifier',
    backbone=dict(type='CIFARResNet', depth=8, norm_cfg=dict(type='psBN', alpha=0.1)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64,
              loss=dict(type='CrossEntropyLoss')))
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('seed')
    (folder / 'net.py').write_text(CONFIG)
    cfg = Config.fromfile(str(folder / 'net.py'))
    cfg.model.data_preprocessor = cfg.data_preprocessor
    init_default_scope('mmpretrain')
    model = draw_model(cfg.model, 3)
    with torch.no_grad():
        model.backbone.bn1.weight.fill_(0.25)
    parts = TrainedParts(['norm'], None, None)
    checkpoint = pack_seed_checkpoint(model, parts=parts, seed=3, frozen=parts.frozen(model, 3))
    torch.save(checkpoint, folder / 'from_seed.pth')
    torch.save(model.state_dict(), folder / 'expected.pth')
    return folder


def test_the_full_checkpoint(folder, tmp_path, capsys):
    out = tmp_path / 'the full.pth'
    run_tool('from_seed', folder / 'net.py', folder / 'from_seed.pth', '--out', out)
    assert next_commands(capsys.readouterr().out) == [['test', str(folder / 'net.py'), str(out)]]
    state = load(folder / 'net.py', out).model.state_dict()
    for name, value in torch.load(folder / 'expected.pth', weights_only=False).items():
        assert torch.equal(state[name], value), name


def test_refusals(folder, tmp_path):
    def said(checkpoint, out, *arguments):
        paths = folder / 'net.py', folder / checkpoint, '--out', tmp_path / out
        return refusal(run_tool, 'from_seed', *paths, *arguments)

    (tmp_path / 'full.pth').write_text('mine')
    assert 'exists; give another --out, or --force' in said('from_seed.pth', 'full.pth')
    deeper = ('--force', '--cfg-options', 'model.backbone.depth=14')
    assert 'use the config of that run' in said('from_seed.pth', 'full.pth', *deeper)
    wrong = said('expected.pth', 'wrong.pth')
    assert 'no checkpoint of a seed and trained values' in wrong
    assert (tmp_path / 'full.pth').read_text() == 'mine'
