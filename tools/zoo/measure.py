"""Plant dead channels in one family's model, prune it, and compare."""

import re
import time
from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmpsbn.pruning import PrunePlan, VerificationError, prune_dead_channels

from .census import take_census, tensors_in
from .families import ROOTS, build_model, calibrate_, config_of
from .forwards import find_forward
from .planting import plant_dead_channels_

TOLERANCE = 1e-9
# (height, width), the first one a model runs at is taken: small ones first, then what fixed
# windows, position encodings and classifiers ask for
_SIZES = dict(
    mmdet=[(128, 128), (256, 256), (320, 320), (256, 128)],
    mmpretrain=[(96, 96), (128, 128), (224, 224), (256, 256), (32, 32)],
)


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
        error: max |after - before| / max |before| over the outputs.
        params_left: parameters after / before.
        status: ``pass``, or why not.
        reasons: why groups were left whole -> how many.
    """

    family: str
    config: str = ''
    what_ran: str = ''
    planted: int = 0
    certain: int = 0
    removed: int = 0
    certain_removed: int = 0
    all_removed: int = 0
    error: float | None = None
    params_left: float = 1.0
    status: str = ''
    reasons: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def passes(self) -> bool:
        return self.status == 'pass'


def measure(family: str, seed: int) -> Row:
    """The family's row; whatever goes wrong is its status."""
    row, start = Row(family), time.perf_counter()
    try:
        _measure(row, seed)
    except Exception as error:
        row.status = one_line(error)
    row.seconds = time.perf_counter() - start
    return row


def one_line(error: Exception) -> str:
    """An error as a cell of the table."""
    return ' '.join(f'{type(error).__name__}: {error}'.split())[:300]


def _measure(row: Row, seed: int) -> None:
    package = row.family.partition('/')[0]
    config = config_of(row.family)
    row.config = config.relative_to(ROOTS[package]).as_posix()
    model = build_model(config, seed)
    row.what_ran, forward, images = find_forward(model, _SIZES[package], seed)
    calibrate_(model, lambda model: forward(model, images))
    census = take_census(model, lambda model: forward(model, images))
    planted = plant_dead_channels_(model, census, seed)
    row.planted = sum(map(len, planted.channels.values()))
    row.certain = sum(map(len, planted.certain.values()))
    with torch.no_grad():
        before = tensors_in(forward(model, images))
        _check_meaningful(model, forward, images, before)
    try:
        result = prune_dead_channels(
            model, [images], criterion='dead', forward_fn=forward, tolerance=TOLERANCE
        )
    except VerificationError as error:
        row.status = f'WRONG, undone: {error}'
        return
    with torch.no_grad():
        row.error = relative_error(before, tensors_in(forward(model, images)))
    row.removed = _gone(result.plan, planted.channels)
    row.certain_removed = _gone(result.plan, planted.certain)
    row.all_removed = sum(result.channels_removed.values())
    row.params_left = result.params_after / result.params_before
    row.reasons = count_reasons(result.skipped)
    if row.error > TOLERANCE:
        row.status = 'WRONG'
    elif row.removed:
        row.status = 'pass'
    else:
        row.status = f'nothing removed: {_main_reason(row.reasons)}'


def _check_meaningful(model, forward, images: Tensor, outputs: list[Tensor]) -> None:
    """RuntimeError if equal outputs would show nothing, or cannot be expected.

    They must depend on the images, and must not amplify their rounding beyond the tolerance.
    """
    if relative_error(outputs, tensors_in(forward(model, images.flip(0, -1) + 1))) < 1e-3:
        raise RuntimeError('degenerate: the outputs do not depend on the images')
    noise = relative_error(outputs, tensors_in(forward(model, images * (1 + 1e-15))))
    if noise > TOLERANCE:
        raise RuntimeError(
            f'degenerate: a change of the images by 1e-15 changes the outputs by {noise:.0e}'
        )


def _main_reason(reasons: dict[str, int]) -> str:
    """The first that is not about the model's outputs."""
    inner = [reason for reason in reasons if not reason.startswith('an output')]
    return inner[0] if inner else 'what was planted can only go together with live channels'


def relative_error(before: list[Tensor], after: list[Tensor]) -> float:
    """max |after - before| / max |before|, the worst of all outputs; inf if shapes differ or
    a value is not finite."""
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
