from ..experiment import Experiment
from ..pictures import against
from ..tables import ArmTable
from ._demp import SCALES, demp, with_each_optimizer

_STRUCTURED = {
    'SNAP': dict(score='snap', timing='start'),
    'CroPit-S': dict(score='cropit', timing='start'),
    'EarlySNAP': dict(score='snap', timing='early'),
    'EarlyCroP-S': dict(score='cropit', timing='early'),
}
_ANY_WIDTH = dict(round_to=1)
_UNSTRUCTURED = {
    'magnitude': {},
    'saliency': {},
    'set': {},
    'rigl': dict(distribution='erk'),  # as table 2 says, and of no other
}
# with a gamma of 0 behind each branch the loss tells nothing of a channel in it at the start
NET = {'model.backbone.zero_init_residual': False}
_LEFT = dict(smoke=(0.5,), small=(0.4, 0.2), paper=(0.4, 0.2, 0.1, 0.05))  # of the weights
_PEAKS = dict(smoke=(1e-3,), small=(3e-4, 1e-3), paper=(5e-4, 1e-3, 2e-3, 4e-3))
_OFTEN = dict(updates=dict(interval=1))  # at smoke there are five iterations


def structured(scale: str, **prune: str) -> dict[str, list[dict]]:
    """The dense net, DemP with these settings of ``prune``, and the structured baselines; at
    ``smoke`` DemP and what prunes at the start, for one epoch has no early one."""
    arms = {'dense, 1': []}
    for peak in _PEAKS[scale]:
        arms[f'DemP, {peak:g}'] = demp(scale, prune=prune, penalty=dict(peak=peak))
    for left in _LEFT[scale]:
        for name, budget in _STRUCTURED.items():
            hook = dict(type='DemPHook', budget=dict(budget, params=left), prune=_ANY_WIDTH)
            arms[f'{name}, {left}'] = [hook]
    few = ('DemP', 'SNAP', 'CroPit-S')
    return {n: of for n, of in arms.items() if scale != 'smoke' or n.split(',')[0] in few}


def _unstructured(scale: str) -> dict[str, list[dict]]:
    often = _OFTEN if scale == 'smoke' else {}
    return {
        f'{method}, {left}': [
            dict(type='SparseWeightsHook', method=method, sparsity=1 - left, **settings, **often)
        ]
        for left in _LEFT[scale]
        for method, settings in _UNSTRUCTURED.items()
        if scale != 'smoke' or method in ('magnitude', 'rigl')
    }


EXPERIMENT = Experiment(
    shows='figures 3 and 16 of the DemP paper and the columns of its tables 1 and 2, on ResNet-18: '
    'DemP beside structured and unstructured baselines',
    claim='With Adam DemP finds sparser nets of better accuracy than the structured baselines, and '
    'is more effective than the unstructured ones; with SGDM all are alike.',
    arms={
        scale: with_each_optimizer(scale, structured(scale) | _unstructured(scale), **NET)
        for scale in SCALES
    },
    table=ArmTable(
        'optimizer, method, peak or weights left',
        {
            'top-1, %': '{top1:.1f}',
            'weights that are 0, %': '{weight_sparsity:.1p}',
            'training FLOPs': '{training_flops:.2f}x',
            'inference FLOPs': '{inference_flops:.2f}x',
            'training, s': '{train_seconds:.0f}',
        },
    ),
    panels=[against('weight_sparsity', y) for y in ('top1', 'training_flops')],
)
