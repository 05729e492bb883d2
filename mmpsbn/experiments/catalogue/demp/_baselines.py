"""DemP beside structured baselines."""

from ...pictures import against
from ...tables import ArmTable
from ._resnet18 import PEAKS, demp

_STRUCTURED = {
    'SNAP': dict(score='snap', timing='start'),
    'CroPit-S': dict(score='cropit', timing='start'),
    'EarlySNAP': dict(score='snap', timing='early'),
    'EarlyCroP-S': dict(score='cropit', timing='early'),
}
_ANY_WIDTH = dict(round_to=1)
LEFT = dict(smoke=(0.5,), small=(0.4, 0.2), paper=(0.4, 0.2, 0.1, 0.05))  # of the weights
# with a gamma of 0 behind each branch the loss tells nothing of a channel in it at the start
GAMMAS_AT_ONE = {'model.backbone.zero_init_residual': False}


def structured(scale: str, **prune: str) -> dict[str, list[dict]]:
    """The dense net, DemP with these settings of ``prune``, and the structured baselines; at
    ``smoke`` DemP and what prunes at the start, for one epoch has no early one."""
    hooks = {'dense, 1': []}
    for peak in PEAKS[scale]:
        hooks[f'DemP, {peak:g}'] = demp(scale, prune=prune, penalty=dict(peak=peak))
    for left in LEFT[scale]:
        for name, budget in _STRUCTURED.items():
            hook = dict(type='DemPHook', budget=dict(budget, params=left), prune=_ANY_WIDTH)
            hooks[f'{name}, {left}'] = [hook]
    few = ('DemP', 'SNAP', 'CroPit-S')
    return {n: of for n, of in hooks.items() if scale != 'smoke' or n.split(',')[0] in few}


BASELINES = dict(
    table=ArmTable(
        'optimizer, method, peak or weights left',
        {
            'top-1, %': '{top1:.1f}',
            'weights that are 0, %': '{weight_sparsity:.1p}',
            'neurons removed, %': '{removed[channels]:.1p}',
            'training FLOPs': '{training_flops:.2f}x',
            'inference FLOPs': '{inference_flops:.2f}x',
            'training, s': '{train_seconds:.0f}',
        },
    ),
    panels=[
        *against('weight_sparsity', 'top1', 'training_flops'),
        *against('removed[channels]', 'top1'),
    ],
)
