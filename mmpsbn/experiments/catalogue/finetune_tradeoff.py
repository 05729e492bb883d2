"""what pruning while finetuning costs a detector, beside cutting once and finetuning"""

from typing import Any

from ..experiment import Arm, Experiment, Options
from ..pictures import against
from ..scales import BOXES, length
from ..tables import ArmTable
from ._shared import NARROW, cut_once

_CONFIGS = dict(
    smoke='quickstart/retinanet_r18_psbn_digits.py',
    small='bccd/retinanet_r18_bn_bccd.py',
    paper='retinanet/retinanet_r50_bn_800px.py',
)
_SHARES = dict(smoke=(50,), small=(50, 25, 12), paper=(50, 25, 12))  # of the MACs, in percent
_ITERATIONS = dict(smoke=200, small=390, paper=87_960)
_BEFORE = 'before finetuning, 100'
_TORCH_PRUNING = 'mmpsbn.experiments.torch_pruning_hook'
# What chooses in the arms that are cut once.
_ALL_CHOICES = ('fisher', 'l1', 'bn_scale', 'uniform', 'random')
_CHOICES = dict(smoke=('random',), small=_ALL_CHOICES, paper=_ALL_CHOICES)
_ROUND_TO = dict(smoke=1, small=8, paper=8)  # of Torch-Pruning, which takes no other where it fails
# DemP's penalty leaves what it leaves.
_INTERVAL = dict(smoke=20, small=39, paper=5_000)
_PEAKS = dict(smoke=(1e-2,), small=(3e-2, 1e-1), paper=(1e-3, 1e-2))


def _held(iterations: int, warm_up: int = 0) -> Options:
    """The learning rate, held until near the end: what is cut in the first tenth learns longer
    at it than under a cosine."""
    milestones = [round(0.8 * iterations), round(0.93 * iterations)]
    held = dict(type='MultiStepLR', by_epoch=False, milestones=milestones, gamma=0.1)
    if not warm_up:
        return {'param_scheduler': [held]}
    start = dict(type='LinearLR', by_epoch=False, start_factor=0.1, begin=0, end=warm_up)
    return {'param_scheduler': [start, held]}


# The dense net, and what goes on from it for a third to all of its training, at its rate.
_DENSE = dict(
    smoke=NARROW | length(1, batch_size=1),
    small=length(30, batch_size=8),
    paper=length(12, batch_size=2),
)
_FINETUNED = dict(
    smoke=NARROW | length(2, batch_size=1) | _held(200),
    small=length(15, batch_size=8) | _held(390),
    paper=length(12, batch_size=2),
)

# A net that is narrow from the first iterations on, trained as long as the others in all.
_NARROW_ITERATIONS = dict(smoke=200, small=1170, paper=175_920)
_NARROW = dict(
    smoke=NARROW | length(2, batch_size=1) | _held(200),
    small=length(45, batch_size=8) | _held(1170, warm_up=50),
    paper=length(24, batch_size=2)
    | {'param_scheduler.1.end': 24, 'param_scheduler.1.milestones': [16, 22]},
)


def _arms(scale: str) -> list[Arm]:
    def arm(name: str, options: Options, *hooks: Options, **start: Any) -> Arm:
        return Arm(name, _CONFIGS[scale], dict(options, custom_hooks=list(hooks)), **start)

    finetuned, start = _FINETUNED[scale], dict(pretrained=_BEFORE, whole=True)
    arms = [
        arm(_BEFORE, _DENSE[scale], once=True),
        arm('dense, 100', finetuned, **start),
    ]
    for share in _SHARES[scale]:
        line = dict(type='DemPHook', budget=dict(flops=share / 100))
        arms.append(arm(f'DemPHook, {share}', finetuned, line, **start))
    for score in _CHOICES[scale]:
        for share in _SHARES[scale]:
            once = cut_once(score, share / 100, _ITERATIONS[scale])
            arms.append(arm(f'cut once by {score}, {share}', finetuned, once, **start))
    for share in _SHARES[scale]:
        once = cut_once('uniform', share / 100, _NARROW_ITERATIONS[scale])
        arms.append(arm(f'narrow from random weights, {share}', _NARROW[scale], once))
    for share in _SHARES[scale]:
        theirs = dict(type='TorchPruningHook', macs=share / 100, round_to=_ROUND_TO[scale])
        imports = {'custom_imports.imports': ['mmpsbn', _TORCH_PRUNING]}
        arms.append(arm(f'Torch-Pruning, {share}', finetuned | imports, theirs, **start))
    for peak in _PEAKS[scale]:
        killing = dict(
            type='DemPHook', penalty=dict(peak=peak), prune=dict(interval=_INTERVAL[scale])
        )
        arms.append(arm(f"DemP's penalty, {peak:g}", finetuned, killing, **start))
    return arms


EXPERIMENT = Experiment(
    claim='None: the table says what `DemPHook(budget=dict(flops=...))` keeps of the mAP of the '
    'dense detector that is trained as long, and what simpler choices keep.',
    arms=_arms,
    table=ArmTable(
        'method, MACs asked for in %, or peak',
        {
            'mAP': '{map:.3f}',
            'MACs left, %': '{left[macs]:.1p}',
            'parameters, %': '{left[params]:.1p}',
            'ONNX Runtime time, %': '{onnx:.0p}',
            'training, s': '{train_seconds:.0f}',
        },
    ),
    panels=against('left[macs]', 'map', 'onnx'),
    data=BOXES,
)
