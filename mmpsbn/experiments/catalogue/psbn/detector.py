"""section 5.3 of the psBN paper on a detector: RetinaNet with BN and psBN over warm restarts, on
digits"""

from ...experiment import Experiment, sweep
from ...pictures import over_steps
from ...scales import BOXES
from ...tables import ArmTable
from .._shared import NARROW
from ._rounds import PSBN, rounds

_SETTINGS = dict(lr=0.04, weight_decay=1e-2, bfloat16=False, tiny=NARROW)
# small: 300 iterations an epoch, so S = 900 * 0.02 * 1e-2 / 0.1 = 1.8 a round
_ROUNDS = dict(
    smoke=rounds('smoke', 2, epochs=1, batch_size=4, **_SETTINGS),
    small=rounds('small', 3, epochs=3, batch_size=8, **_SETTINGS),
    paper=rounds('paper', 5, epochs=6, batch_size=8, **_SETTINGS),
)

EXPERIMENT = Experiment(
    claim='Filters of a detector collapse under BN where decay and length allow it, psBN keeps '
    'them; the paper has mAP with psBN above BN after training on COCO.',
    arms=lambda scale: sweep(
        'quickstart/retinanet_r18_bn_rounds_digits.py',
        _ROUNDS[scale],
        {
            'BN': {},
            'psBN': {f'model.{of}.norm_cfg': PSBN for of in ('backbone', 'neck', 'bbox_head')},
        },
    ),
    table=ArmTable(
        'FLOPs sparsity % / collapsed / dead / mAP after round',
        step='{flops_sparsity:.1p} / {collapsed} / {dead} / {map:.3f}',
    ),
    panels=over_steps('round', 'collapsed', 'map'),
    data=BOXES,
)
