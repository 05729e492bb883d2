"""Layers whose gamma began at 0, of which SparsityHook has written down how far they grew."""

import csv
import json

import pytest
import torch
from mmengine.config import Config
from reports import Chain, Given, snapshot_of, write
from torch import nn
from toy import toy_runner

from mmpsbn.analysis.report.config import ConfigSubject
from mmpsbn.analysis.report.numbers import channel_table
from mmpsbn.analysis.report.pictures import paths_of


def chain_with(*gammas):
    """:class:`Chain` with these gammas of bn2, whose channels all live."""
    torch.manual_seed(0)
    model = Chain()
    with torch.no_grad():
        model.bn2.weight.copy_(torch.tensor(gammas))
        model.bn2.bias.fill_(9.0)
    return model


@pytest.mark.parametrize(
    'growth, collapsed, young',
    [
        ((0.2, 2.0, 9e-3, 2.0, 2.0), 1, 1),  # 0.2 was grown; ten times 1e-3 is not reached
        ((9e-4, 2.0, 0.0, 2.0, 2.0), 0, 2),
        (None, 2, None),  # without a record nobody knows
    ],
)
def test_what_has_not_grown_has_not_collapsed(tmp_path, growth, collapsed, young):
    growth = {'x.pth': dict(bn2=list(growth))} if growth else {}
    subject = Given({'x.pth': chain_with(0.0, 2.0, -9e-4, 2.0, 2.0)}, growth=growth)
    page, data, table = write(subject, tmp_path)
    (checkpoint,) = json.loads(data.read_text())['checkpoints']
    rows = list(csv.DictReader(table.open()))
    for key, expected in {'collapsed_0.001': collapsed, 'not_grown': young}.items():
        assert checkpoint['totals'][key] == expected
        assert sum(int(row[key]) for row in rows if row[key]) == (expected or 0)
    said = page.read_text().replace('\u2060', '')
    if young:
        assert f'{young} more {"is" if young == 1 else "are"} below that in layers' in said
    assert ('not grown yet, as SparsityHook has written down' in said) == bool(young)
    assert ('To keep these filters' in said) == bool(collapsed)
    assert ('Nothing to do.' in said) == (not collapsed)


def test_pictures_call_collapsed_what_the_words_do():
    known = snapshot_of(
        chain_with(0.0, 2.0, 1e-4, 2.0, 2.0), growth=dict(x=dict(bn2=[0.0, 2.0, 2.0, 2.0, 2.0]))
    )
    table = channel_table(known)
    assert table.collapsed.nonzero()[0].tolist() == [4 + 2]
    assert paths_of([known], [table])[1].nonzero()[0].tolist() == [4 + 2]


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
