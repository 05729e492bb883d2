from ..experiment import Experiment
from ._bn_only import BOTH, CONVOLUTIONS, DEEP, NORMS

_INITS = {
    'uniform features': [dict(CONVOLUTIONS, distribution='uniform'), NORMS],
    'binarized features': [dict(type='RandomFilters', kind='binarized'), NORMS],
    'orthogonal features': [dict(type='RandomFilters', kind='orthogonal'), NORMS],
    'gamma 1': [CONVOLUTIONS, dict(type='NormAffine')],
    'gamma in [-1, 1]': [CONVOLUTIONS, dict(type='NormAffine', gamma=[-1, 1])],
    'gamma 1, beta 1': [CONVOLUTIONS, dict(type='NormAffine', beta=1.0)],
}
ROWS = BOTH | {
    f'{row}, {name}': trained | {'model.backbone.init_cfg': init}
    for name, init in _INITS.items()
    for row, trained in BOTH.items()
}

EXPERIMENT = Experiment(
    shows='appendix E of the BN-only paper, figure 11, deep nets: other initialisations of '
    'features, gamma and beta',
    claim='Features from other distributions change nothing, nor do gamma 1 and gamma in [-1, 1]; '
    'beta 1 adds 1 to 3 points where BN alone is trained, and none or less where all are.',
    arms=DEEP.arms(
        ROWS, smoke=('BN, binarized features', 'all, orthogonal features', 'BN, gamma in [-1, 1]')
    ),
    **DEEP.top1,
)
