from ..experiment import Experiment
from ._bn_only import CONVOLUTIONS, NORMS, TOP1_BY_DEPTH, TRAINED, by_depth

_INITS = {
    'as the paper': [CONVOLUTIONS, NORMS],
    'uniform features': [dict(CONVOLUTIONS, distribution='uniform'), NORMS],
    'gamma 1': [CONVOLUTIONS, dict(type='NormAffine')],
    'gamma in [-1, 1]': [CONVOLUTIONS, dict(type='NormAffine', gamma=[-1, 1])],
    'gamma 1, beta 1': [CONVOLUTIONS, dict(type='NormAffine', beta=1.0)],
}
_ROWS = {
    f'{row}, {name}': TRAINED[row] | {'model.backbone.init_cfg': init}
    for name, init in _INITS.items()
    for row in ('BN', 'all')
}

EXPERIMENT = Experiment(
    shows='appendix E of the BN-only paper, figure 11, deep nets: other initialisations of '
    'features, gamma and beta (orthogonal and binarized features are left out)',
    claim='Features from other distributions change nothing, nor do gamma 1 and gamma in [-1, 1]; '
    'beta 1 adds 1 to 3 points where BN alone is trained, and none or less where all are.',
    arms=by_depth(_ROWS, smoke=('BN, uniform features', 'BN, gamma in [-1, 1]')),
    **TOP1_BY_DEPTH,
)
