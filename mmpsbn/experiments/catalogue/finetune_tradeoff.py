"""Pruning while finetuning, beside the simplest things that a user would do instead."""

from ..experiment import Arm, Experiment, Options
from ..pictures import against
from ..scales import BOXES, length
from ..tables import ArmTable
from ._detector import NARROW

_CONFIGS = dict(
    smoke='quickstart/retinanet_r18_psbn_digits.py',
    small='bccd/retinanet_r18_bn_bccd.py',
    paper='retinanet/retinanet_r50_bn_800px.py',
)
_SHARES = dict(smoke=(50,), small=(50, 25, 12), paper=(50, 25, 12))  # of the MACs, in percent
_ITERATIONS = dict(smoke=200, small=390, paper=87_960)
_FIRST_STEPS = 11  # one cut takes place after these, since a budget looks at ten steps before it
_BEFORE = 'before finetuning, 100'
# What chooses in the arms that are cut once. At 50 % of the MACs BCCD cannot tell choices apart.
_CHOICES = dict(
    smoke=('random',),
    small=('l1', 'uniform', 'random'),
    paper=('fisher', 'l1', 'bn_scale', 'uniform', 'random'),
)
_CUT_ONCE = dict(smoke=(50,), small=(25, 12), paper=(50, 25, 12))


def _cosine(iterations: int) -> Options:
    schedule = dict(type='CosineAnnealingLR', by_epoch=False, begin=0, end=iterations)
    return {'param_scheduler': [schedule]}


# The dense net, and what goes on from it for a third to all of its training at half of its rate.
_DENSE = dict(
    smoke=NARROW | length(1, batch_size=1),
    small=length(30, batch_size=8),
    paper=length(12, batch_size=2),
)
_FINETUNED = dict(
    smoke=NARROW | length(2, batch_size=1) | _cosine(200),
    small=length(15, batch_size=8) | _cosine(390) | {'optim_wrapper.optimizer.lr': 0.01},
    paper=length(12, batch_size=2) | {'optim_wrapper.optimizer.lr': 0.005},
)


def _budgets(scale: str) -> dict[str, Options | None]:
    """By the name of an arm."""
    early = dict(cuts=1, begin=0.0, end=round(_FIRST_STEPS / _ITERATIONS[scale] + 5e-5, 4))
    budgets: dict[str, Options | None] = {'dense, 100': None}
    budgets |= {f'the one line, {share}': dict(flops=share / 100) for share in _SHARES[scale]}
    for score in _CHOICES[scale]:
        for share in _CUT_ONCE[scale]:
            name = f'cut once by {score}, {share}'
            budgets[name] = dict(early, flops=share / 100, score=score)
    return budgets


def _arms(scale: str) -> list[Arm]:
    dense = dict(_DENSE[scale], custom_hooks=[])
    arms = [Arm(_BEFORE, _CONFIGS[scale], dense, once=True)]
    for name, budget in _budgets(scale).items():
        hooks = [] if budget is None else [dict(type='DemPHook', budget=budget)]
        options = dict(_FINETUNED[scale], custom_hooks=hooks)
        arms.append(Arm(name, _CONFIGS[scale], options, _BEFORE, whole=True))
    return arms


EXPERIMENT = Experiment(
    shows='what pruning while finetuning costs a detector, beside cutting once and finetuning',
    claim='None: the table says what `DemPHook(budget=dict(flops=...))` keeps of the mAP of the '
    'dense detector that is trained as long, and what simpler choices keep.',
    arms={scale: _arms(scale) for scale in _CONFIGS},
    table=ArmTable(
        'method, MACs asked for in %',
        {
            'mAP': '{map:.3f}',
            'MACs left, %': '{left[macs]:.1p}',
            'parameters, %': '{left[params]:.1p}',
            'ONNX Runtime time, %': '{onnx:.0p}',
            'training, s': '{train_seconds:.0f}',
        },
    ),
    panels=[against('left[macs]', 'map'), against('left[macs]', 'onnx')],
    data=BOXES,
)
