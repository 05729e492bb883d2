"""The report tells what began with gamma = 0 and has not grown from what has collapsed."""

import csv
import json
import re
from dataclasses import replace

import pytest
import torch
from mmengine.config import Config
from reports import Chain, Given, snapshot_of, write
from torch import nn
from toy import toy_runner

from mmpsbn.analysis.report.arch import ArchSubject
from mmpsbn.analysis.report.config import ConfigSubject
from mmpsbn.analysis.report.numbers import channel_table
from mmpsbn.analysis.report.pictures import paths_of

YOUNG = 'more are below that in layers whose γ begins at 0: not grown yet, unless grown and fallen'


def chain_with(*gammas):
    """:class:`Chain` with these gammas of bn2, whose channels all live."""
    torch.manual_seed(0)
    model = Chain()
    with torch.no_grad():
        model.bn2.weight.copy_(torch.tensor(gammas))
        model.bn2.bias.fill_(9.0)
    return model


def report(out_dir, *models, zero, growth=()):
    """Totals by checkpoint, and the page's words; ``growth`` is what the last checkpoint says of
    bn2."""
    models = {f'{k}.pth': model for k, model in enumerate(models)}
    growth = {list(models)[-1]: dict(bn2=list(growth))} if growth else {}
    page, data, table = write(Given(models, zero=zero, growth=growth), out_dir)
    checkpoints = json.loads(data.read_text())['checkpoints']
    totals = [c['totals'] for c in checkpoints]
    rows = list(csv.DictReader(table.open()))
    for found, checkpoint in zip(totals, checkpoints):  # one sum in all places
        for key in ('collapsed_0.001', 'not_grown', 'perhaps_not_grown'):
            cells = [r[key] for r in rows if r['checkpoint'] == checkpoint['name'] and r[key]]
            assert sum(map(int, cells)) == (found[key] or 0)
    return totals, page.read_text().replace('\u2060', '')


def numbers(found):
    """Collapsed, not grown, and those of the collapsed that perhaps never grew."""
    return tuple(found[key] for key in ('collapsed_0.001', 'not_grown', 'perhaps_not_grown'))


def tile(page, label):
    """The number above a label."""
    return int(re.search(rf'<b>(\d+)</b><span>{re.escape(label)}</span>', page)[1])


def test_one_checkpoint_cannot_tell_and_says_so(tmp_path):
    model = chain_with(0.0, 2.0, -9e-4, 2.0, 2.0)
    (found,), page = report(tmp_path / 'a', model, zero=dict(bn2=5))
    assert numbers(found) == (2, None, 2)
    assert '2 of 9 filters (22.2%) have collapsed or never grown' in page
    assert '2 of them are in layers whose γ begins at 0' in page
    assert '2 filters have collapsed or never grown: earlier checkpoints of the run' in page
    assert 'SparsityHook in the run' in page and 'To keep these filters' in page
    assert 'Nothing to do' not in page and 'No filter' not in page
    assert tile(page, 'of |γ| &lt; 0.001 perhaps never grown') == 2
    (found,), page = report(tmp_path / 'b', model, zero={})
    assert numbers(found) == (2, None, None)
    assert '2 of 9 filters' in page and 'To keep these filters' in page
    assert 'never grown' not in page and YOUNG not in page


@pytest.mark.parametrize('zero', [dict(bn2=5), {}])
@pytest.mark.parametrize(
    'growth, expected',
    [
        ((0.2, 2.0, 9e-3, 2.0, 2.0), (1, 1, None)),  # 0.2 was grown; ten times 1e-3 is not reached
        ((9e-4, 2.0, 0.0, 2.0, 2.0), (0, 2, None)),
    ],
)
def test_one_checkpoint_tells_where_the_run_has_written_down_its_course(
    tmp_path, zero, growth, expected
):
    model = chain_with(0.0, 2.0, -9e-4, 2.0, 2.0)
    (found,), page = report(tmp_path, model, zero=zero, growth=growth)
    collapsed, young, _ = expected
    assert numbers(found) == expected
    assert f'{young} more {"is" if young == 1 else "are"} below that' in page
    assert 'not grown yet, as SparsityHook has written down' in page
    assert 'never grown' not in page
    assert ('To keep these filters' in page) == bool(collapsed)
    assert ('Nothing to do: no filter was seen to collapse' in page) == (not collapsed)
    assert tile(page, 'filters with |γ| &lt; 0.001') == 2
    assert tile(page, 'of |γ| &lt; 0.001 not grown yet') == young


def test_earlier_checkpoints_show_what_the_course_has_missed(tmp_path):
    first, last = chain_with(0.5, 2.0, 0.0, 2.0, 2.0), chain_with(0.0, 2.0, -9e-4, 2.0, 2.0)
    found, _ = report(tmp_path, first, last, zero={}, growth=(0.0, 2.0, 0.0, 2.0, 2.0))
    assert numbers(found[1]) == (1, 1, None)


def test_the_course_over_checkpoints_tells(tmp_path):
    found, page = report(
        tmp_path,
        chain_with(0.0, 2.0, 9e-3, 2.0, 0.5),  # 9e-3 is below ten times the threshold
        chain_with(0.0, 2.0, -9e-4, 2.0, 1e-5),
        zero=dict(bn2=5),
    )
    assert [numbers(t) for t in found] == [(0, 1, None), (1, 2, None)]
    assert '1 of 9 filters' in page and f'2 {YOUNG}' in page


def test_pictures_call_collapsed_what_the_words_do():
    young = {1e-3: dict(bn2=torch.tensor([True, False, False, False, False]))}
    known = replace(
        snapshot_of(chain_with(0.0, 2.0, 1e-4, 2.0, 2.0)),
        not_grown=young,
        growth_from='checkpoints',
    )
    table = channel_table(known)
    assert table.collapsed.nonzero()[0].tolist() == [4 + 2]
    assert paths_of([known], [table])[1].nonzero()[0].tolist() == [4 + 2]
    assert channel_table(replace(known, growth_from=None)).collapsed.sum() == 2


def test_a_trained_checkpoint_brings_its_course(tmp_path):
    runner = toy_runner(tmp_path, [dict(type='SparsityHook', interval=1)], epochs=1)
    nn.init.zeros_(runner.model.blocks[0].bn2.weight)
    runner.train()
    (tmp_path / 'toy.py').write_text("model = dict(type='ToyNet')\n")
    cfg = Config.fromfile(str(tmp_path / 'toy.py'))
    subject = ConfigSubject(cfg, use_data=False, input_size=(8, 8), device='cpu')
    growth = subject.load(str(tmp_path / 'epoch_1.pth')).growth
    assert list(growth) == ['blocks.0.bn2'] and len(growth['blocks.0.bn2']) == 8
    assert max(growth['blocks.0.bn2']) > 0


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
    assert numbers(found) == (0, None, 0) and 'whose γ begins at 0' not in page
