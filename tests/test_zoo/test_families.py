"""Dead channels in one model of every family of mmdet's and mmpretrain's zoos: the engine must
remove them, and nothing else may change.

By default a few families run that are quick and together have every kind of layer. The table of
docs/prune_zoo.md: ``pytest -m slow -s tests/test_zoo/test_families.py --whole-zoo``.
"""

import platform
import re
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch
from census import take_census
from families import ROOTS, build_model, calibrate_, config_of, family_names
from forwards import find_forward
from planting import plant_dead_channels_
from torch import Tensor

from mmpsbn.pruning import PrunePlan, prune_dead_channels
from mmpsbn.pruning.forward import tensors_in

SEED = 0
TOLERANCE = 1e-9
# Residual and dense streams, grouped and depthwise convolutions, splits, gates, shuffles, shared
# heads, second stages.
QUICK = [
    *(f'mmdet/{name}' for name in 'centernet hrnet retinanet rpn rtmdet sabl ssd_lite'.split()),
    *(
        f'mmpretrain/{name}'
        for name in 'densenet edgenext inception_v3 mobilenet_v3 mobileone mvit poolformer regnet '
        'res2net resnest resnet resnext seresnet shufflenet_v2'.split()
    ),
]
# what is planted there can only go together with live channels, or is read by a norm over all
LEFT_WHOLE = {'mmpretrain/convnext_v2', 'mmpretrain/shufflenet_v1'}
# queries of fixed size are added to a stream, which keeps it
PARTLY_LEFT = {'mmdet/mask2former', 'mmdet/mask2former_vis'}
# (height, width), the first one a model runs at is taken: small ones first, then what fixed
# windows, position encodings and classifiers ask for
_SIZES = dict(
    mmdet=[(128, 128), (256, 256), (320, 320), (256, 128)],
    mmpretrain=[(96, 96), (128, 128), (224, 224), (256, 256), (32, 32)],
)
_DISTRIBUTIONS = 'torch onedl-mmengine mmengine onedl-mmcv mmcv onedl-mmdetection mmdet'.split()
_DISTRIBUTIONS += ['onedl-mmpretrain', 'mmpretrain']


@dataclass
class Row:
    """One family of the table.

    Attributes:
        config: below the package's configs.
        what_ran: the largest part of the model that runs in float64 on the CPU.
        planted: (layer, channel) pairs that were made dead.
        certain: those of them that for certain no reader sees.
        removed, certain_removed: those of the two that are gone after pruning.
        all_removed: channels the engine removed; a stream's channel counts once.
        params_left: parameters after / before.
        error: max |after - before| / max |before| over the outputs.
        reasons: why groups were left whole -> how many.
    """

    family: str
    config: str
    what_ran: str
    planted: int
    certain: int
    removed: int
    certain_removed: int
    all_removed: int
    params_left: float
    error: float
    reasons: dict[str, int] = field(default_factory=dict)

    def line(self) -> str:
        cells = [
            self.family,
            self.config.rpartition('/')[2],
            self.what_ran,
            self.planted,
            self.certain,
            f'{self.removed}, {self.certain_removed}',
            self.all_removed,
            f'{self.params_left:.0%}',
            f'{self.error:.0e}',
            '; '.join(f'{reason} ({n})' for reason, n in list(self.reasons.items())[:3]),
        ]
        return '| ' + ' | '.join(str(cell).replace('|', '\\|') for cell in cells) + ' |'


def measure(family: str) -> Row:
    package = family.partition('/')[0]
    config = config_of(family)
    model = build_model(config, SEED)
    what_ran, forward, images = find_forward(model, _SIZES[package], SEED)
    calibrate_(model, lambda model: forward(model, images))
    census = take_census(model, lambda model: forward(model, images))
    planted = plant_dead_channels_(model, census, SEED)
    with torch.no_grad():
        before = forward(model, images)
        check_meaningful(model, forward, images, before)
    result = prune_dead_channels(
        model, [images], criterion='dead', forward_fn=forward, tolerance=TOLERANCE
    )
    with torch.no_grad():
        error = relative_error(before, forward(model, images))
    return Row(
        family,
        config=config.relative_to(ROOTS[package]).as_posix(),
        what_ran=what_ran,
        planted=sum(map(len, planted.channels.values())),
        certain=sum(map(len, planted.certain.values())),
        removed=_gone(result.plan, planted.channels),
        certain_removed=_gone(result.plan, planted.certain),
        all_removed=sum(result.channels_removed.values()),
        params_left=result.params_after / result.params_before,
        error=error,
        reasons=count_reasons(result.skipped),
    )


def check_meaningful(model, forward, images: Tensor, outputs) -> None:
    """Equal outputs must show something: they depend on the images, and do not amplify their
    rounding beyond the tolerance."""
    change = relative_error(outputs, forward(model, images.flip(0, -1) + 1))
    assert change >= 1e-3, 'degenerate: the outputs do not depend on the images'
    noise = relative_error(outputs, forward(model, images * (1 + 1e-15)))
    assert noise <= TOLERANCE, f'degenerate: images changed by 1e-15, outputs by {noise:.0e}'


def relative_error(before, after) -> float:
    """max |after - before| / max |before|, the worst of all tensors in the outputs; inf if shapes
    differ or a value is not finite."""
    before, after = list(tensors_in(before)), list(tensors_in(after))
    if [x.shape for x in before] != [x.shape for x in after]:
        return float('inf')
    worst = 0.0
    for x, y in zip(before, after):
        if x.numel() and not (x.isfinite().all() and y.isfinite().all()):
            return float('inf')
        if x.numel():
            x, y = x.double(), y.double()
            scale = float(x.abs().max()) or 1.0
            worst = max(worst, float((y - x).abs().max()) / scale)
    return worst


def _gone(plan: PrunePlan, channels: dict[str, list[int]]) -> int:
    """How many of the layers' channels a plan removes."""
    gone = 0
    for layer, indices in channels.items():
        kept = plan.kept.get(f'{layer}.weight', {}).get(0)
        gone += 0 if kept is None else len(set(indices) - set(kept))
    return gone


def count_reasons(skipped: dict[str, str]) -> dict[str, int]:
    """Reasons without the layers and numbers in front, the most frequent first."""
    in_front = r'^(\d+ of \d+ channels: )?([\w.]+: )?'
    reasons = Counter(re.sub(in_front, '', reason) for reason in skipped.values())
    return dict(reasons.most_common())


def versions() -> str:
    """Python and the packages the zoo is made of."""
    found = [f'Python {platform.python_version()}']
    for name in _DISTRIBUTIONS:
        try:
            found.append(f'{name} {version(name)}')
        except PackageNotFoundError:
            pass
    return ', '.join(found)


@pytest.fixture(scope='module')
def rows():
    """Filled by the families; printed as a table in the end, for ``-s``."""
    rows = []
    yield rows
    if not rows:
        return
    print(f'\nSeed {SEED}; {versions()}.\n')
    print('| family | config | what ran | planted | certain | removed | all removed', end=' ')
    print('| params left | error | left whole |')
    print('|---|---|---|---:|---:|---:|---:|---:|---:|---|')
    print(*(row.line() for row in rows), sep='\n')


def pytest_generate_tests(metafunc):
    if 'family' in metafunc.fixturenames:
        whole = metafunc.config.getoption('--whole-zoo')
        metafunc.parametrize('family', family_names() if whole else QUICK)


@pytest.mark.slow
def test_dead_channels_of_a_family_are_removed_and_nothing_else_changes(family, rows):
    try:
        row = measure(family)
    except ImportError as error:
        pytest.skip(f'{family}: {error}')
    rows.append(row)
    assert row.error <= TOLERANCE
    if family in LEFT_WHOLE:
        assert row.removed == row.all_removed == 0
        return
    assert row.params_left < 1
    assert 0 < row.removed <= row.planted and row.all_removed > 0
    least = 0.75 if family in PARTLY_LEFT else 1
    assert least * row.certain <= row.certain_removed <= row.certain


def test_every_family_has_a_config():
    names = family_names()
    assert len(names) == len(set(names)) > 150
    assert {'mmdet/retinanet', 'mmdet/ssd', 'mmpretrain/resnet', 'mmpretrain/vgg_bn'} <= set(names)
    assert {*QUICK, *LEFT_WHOLE, *PARTLY_LEFT} <= set(names)
    for name in names:
        assert config_of(name).is_file(), name


def test_a_difference_is_an_error():
    before = [torch.ones(2, 2), torch.zeros(3)]
    assert relative_error(before, [torch.ones(2, 2), torch.zeros(3)]) == 0
    assert relative_error(before, [torch.full((2, 2), 1.5), torch.zeros(3)]) == 0.5
    assert relative_error(before, [torch.ones(2, 2)]) == float('inf')
    unknown = torch.tensor([0.0, 0, torch.nan])
    assert relative_error(before, [torch.ones(2, 2), unknown]) == float('inf')


@pytest.mark.parametrize(
    'outputs, complaint',
    [
        (lambda y: y * 0 + 1, 'the outputs do not depend on the images'),
        (lambda y: (y * 1e14).sin(), 'images changed by 1e-15, outputs by'),
    ],
)
def test_a_degenerate_model_is_no_evidence(outputs, complaint):
    images = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def forward(model, images):
        return outputs(images)

    with pytest.raises(AssertionError, match=f'degenerate: {complaint}'):
        check_meaningful(None, forward, images, forward(None, images))
