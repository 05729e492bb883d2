"""The report tells what began with gamma = 0 and has not grown from what has collapsed."""

import json

import pytest
import torch
from mmengine.config import Config

pytest.importorskip('matplotlib', reason='the report draws with matplotlib')

from test_report import SETTINGS, Chain, Given  # noqa: E402

from mmpsbn.analysis.report import write_report  # noqa: E402
from mmpsbn.analysis.report.arch import ArchSubject  # noqa: E402
from mmpsbn.analysis.report.config import ConfigSubject  # noqa: E402

YOUNG = 'more are below that in layers whose γ begins at 0: not grown yet, unless grown and fallen'


def chain_with(*gammas):
    """:class:`Chain` with these gammas of bn2, whose channels all live."""
    torch.manual_seed(0)
    model = Chain()
    with torch.no_grad():
        model.bn2.weight.copy_(torch.tensor(gammas))
        model.bn2.bias.fill_(9.0)
    return model


def report(out_dir, *models, zero):
    """Totals by checkpoint, and the page's words."""
    subject = Given({f'{k}.pth': model for k, model in enumerate(models)}, zero=zero)
    page, data, _ = write_report(
        subject, list(subject.models), SETTINGS, out_dir=out_dir, force=False, prune_command=None
    )
    checkpoints = json.loads(data.read_text())['checkpoints']
    return [c['totals'] for c in checkpoints], page.read_text().replace('\u2060', '')


def test_one_checkpoint_cannot_tell_and_says_so(tmp_path):
    model = chain_with(0.0, 2.0, -9e-4, 2.0, 2.0)
    (found,), page = report(tmp_path / 'a', model, zero=dict(bn2=5))
    assert (found['collapsed_0.001'], found['not_grown']) == (2, 2)
    assert 'No filter of 9 has collapsed' in page and f'2 {YOUNG}' in page
    assert 'Nothing to do: no filter has collapsed' in page
    (found,), page = report(tmp_path / 'b', model, zero={})
    assert (found['collapsed_0.001'], found['not_grown']) == (2, None)
    assert '2 of 9 filters' in page and 'To keep these filters' in page and YOUNG not in page


def test_the_course_over_checkpoints_tells(tmp_path):
    found, page = report(
        tmp_path,
        chain_with(0.0, 2.0, 9e-3, 2.0, 0.5),  # 9e-3 is below ten times the threshold
        chain_with(0.0, 2.0, -9e-4, 2.0, 1e-5),
        zero=dict(bn2=5),
    )
    assert [t['not_grown'] for t in found] == [1, 2]
    assert [t['collapsed_0.001'] for t in found] == [1, 3]
    assert '1 of 9 filters' in page and f'2 {YOUNG}' in page


def test_of_a_model_in_python_it_is_the_built_one_that_tells(tmp_path):
    (tmp_path / 'nets.py').write_text(
        'from torch import nn\n'
        'def net():\n'
        '    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(4), nn.BatchNorm2d(5))\n'
        '    nn.init.zeros_(model[1].weight)\n'
        '    return model\n'
    )
    subject = ArchSubject(f'{tmp_path / "nets.py"}:net', data=None, input_size=None, device='cpu')
    assert subject.begins_at_zero() == {'1': 4}


@pytest.mark.parametrize(
    'init_cfg, last_norms',
    [
        (None, 8),  # of the blocks of a ResNet-18
        (dict(type='Pretrained', checkpoint='nowhere.pth'), 0),
        ([dict(type='Pretrained', checkpoint='nowhere.pth')], 0),
        (dict(type='NoSuchInit'), 0),
    ],
)
def test_of_a_config_it_is_a_training_from_scratch_that_tells(tmp_path, init_cfg, last_norms):
    pytest.importorskip('mmdet')
    (tmp_path / 'net.py').write_text(
        "_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'\n"
        f'model = dict(backbone=dict(base_channels=8, init_cfg={init_cfg!r}),\n'
        '    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),\n'
        '    bbox_head=dict(in_channels=16, feat_channels=16))\n'
    )
    cfg = Config.fromfile(str(tmp_path / 'net.py'))
    cfg.model.backbone.init_cfg = init_cfg  # not merged with the base's
    state = torch.get_rng_state()
    subject = ConfigSubject(cfg, use_data=False, input_size=None, device='cpu')
    found = subject.begins_at_zero()
    assert len(found) == last_norms and all(name.endswith('bn2') for name in found)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_layer_with_grown_channels_alone_has_none_that_has_not(tmp_path):
    (found,), page = report(tmp_path, chain_with(1.0, 2.0, 3.0, 4.0, 5.0), zero=dict(bn2=5))
    assert found['not_grown'] == 0 and 'begins at 0' not in page
