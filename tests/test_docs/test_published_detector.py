"""docs/published_detector.md: the network on planted dead channels, the example on its weights."""

import tarfile
from copy import deepcopy
from pathlib import Path

import pytest
import torch

pytest.importorskip('skimage')
ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / 'shared/data'


@pytest.fixture(autouse=True)
def examples(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'docs/examples'))


def test_planted_dead_channels_go_and_faces_stay():
    from slim320 import Slim320, anchors, faces

    from mmpsbn.pruning import prune_dead_channels

    torch.manual_seed(0)
    model = Slim320().double()
    images = torch.randn(4, 3, 240, 320, dtype=torch.float64)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()(images)  # statistics that fit, so that no channel is dead by chance
    # after a pointwise convolution, and after a depthwise one of channels that a stride-2 one made
    planted = {'base_net.3.4': [2, 5, 31], 'base_net.9.1': [0, 7]}
    with torch.no_grad():
        for name, channels in planted.items():
            model.get_submodule(name).weight[channels] = 0
            model.get_submodule(name).bias[channels] = -1
    model.eval()
    before = deepcopy(model)

    result = prune_dead_channels(model, images.split(2))

    removed = {n: k for n, k in result.channels_removed.items() if n.startswith('base_net')}
    assert removed == {'base_net.3.3': 3, 'base_net.8.3': 2}
    assert model.base_net[4][0].groups == 29 and model.base_net[9][0].groups == 126
    with torch.no_grad():
        old, new = before(images), model(images)
    assert new[0].shape == (4, 4420, 2) and anchors().shape == (4420, 4)
    for a, b in zip(old, new):
        assert (a - b).abs().max() <= 1e-12 * a.abs().max()
    found, kept = (faces(*(out[0] for out in outs), threshold=0.5) for outs in (old, new))
    assert len(found[0]) > 10
    for a, b in zip(found, kept):
        torch.testing.assert_close(a, b)


@pytest.mark.slow
@pytest.mark.skipif(
    not (DATA / 'face_slim320.pth').is_file(),
    reason='the weights of slim-320 are not beside the clone (../shared/data/face_slim320.pth)',
)
def test_what_the_page_says_of_the_published_weights(tmp_path, monkeypatch, capsys):
    pytest.importorskip('onnxruntime')
    import published_detector

    with tarfile.open(DATA / 'bccd_coco.tar.xz') as archive:
        photographs = [m for m in archive if m.name.endswith('.jpg')][:3]
        for k, member in enumerate(photographs):
            (tmp_path / f'{k}.jpg').write_bytes(archive.extractfile(member).read())
    monkeypatch.setattr(published_detector, 'ROUNDS', 2)
    weights, out = DATA / 'face_slim320.pth', tmp_path / 'out'
    arguments = [str(weights), '--photographs', str(tmp_path), '--out', str(out)]
    monkeypatch.setattr('sys.argv', ['published_detector.py', *arguments])
    published_detector.main()
    said = capsys.readouterr().out
    for words in (
        'widths in multiples of 1: 78 channels go',
        'MACs: 81,410,560 -> 74,193,420, 8.87% less',
        'parameters: 260,188 -> 234,083, 10.03% less',
        'widths in multiples of 8: 48 channels go',
        '99 faces, the same',
    ):
        assert words in said
    assert 'NOT' not in said
    assert len(list(out.glob('*.onnx'))) == 3
    assert (out / 'published_detector.jpg').stat().st_size > 10_000
