from ..experiment import Experiment, sweep
from ..pictures import over_steps
from ..scales import BOXES
from ..tables import ArmTable
from ._detector import NARROW
from ._psbn import rounds

_CONFIG = 'quickstart/retinanet_r18_bn_rounds_digits.py'
_PARTS = ('backbone', 'neck', 'bbox_head')
_PSBN = dict(_delete_=True, type='psBN', alpha=0.1)


def _rounds(scale: str, count: int, *, epochs: int, batch_size: int = 8) -> dict:
    settings = dict(epochs=epochs, batch_size=batch_size, weight_decay=1e-2, bfloat16=False)
    return rounds(scale, count, lr=0.04, tiny=NARROW, **settings)


EXPERIMENT = Experiment(
    shows='section 5.3 of the psBN paper on a detector: RetinaNet with BN and psBN over warm '
    'restarts, on digits',
    claim='Filters of a detector collapse under BN where decay and length allow it, psBN keeps '
    'them; the paper has mAP with psBN above BN after training on COCO.',
    # small: 300 iterations an epoch, so S = 900 * 0.02 * 1e-2 / 0.1 = 1.8 a round
    arms=sweep(
        _CONFIG,
        dict(
            smoke=_rounds('smoke', 2, epochs=1, batch_size=4),
            small=_rounds('small', 3, epochs=3),
            paper=_rounds('paper', 5, epochs=6),
        ),
        {'BN': {}, 'psBN': {f'model.{part}.norm_cfg': _PSBN for part in _PARTS}},
    ),
    table=ArmTable(
        'FLOPs sparsity % / collapsed / dead / mAP after round',
        step='{flops_sparsity:.1p} / {collapsed} / {dead} / {map:.3f}',
    ),
    panels=[over_steps('round', 'collapsed'), over_steps('round', 'map')],
    data=BOXES,
)
