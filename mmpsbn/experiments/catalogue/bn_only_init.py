from ..experiment import Experiment, sweep
from ..pictures import over_columns
from ..tables import GridTable
from ._bn_only import CONFIG, CONVOLUTIONS, DEPTHS, NORMS, SCALES, TRAINED, depth

_FEATURES = {
    'orthogonal features': dict(type='Orthogonal', layer='Conv2d'),
    'uniform features': dict(CONVOLUTIONS, distribution='uniform'),
}
_AFFINE = {
    'gamma 1': dict(type='NormAffine'),
    'gamma in [-1, 1]': dict(type='NormAffine', gamma=[-1, 1]),
    'gamma 1, beta 1': dict(type='NormAffine', beta=1.0),
}
_INITS = {'as the paper': [CONVOLUTIONS, NORMS]}
_INITS |= {name: [features, NORMS] for name, features in _FEATURES.items()}
_INITS |= {name: [CONVOLUTIONS, affine] for name, affine in _AFFINE.items()}

EXPERIMENT = Experiment(
    shows='appendix E of the BN-only paper, figure 11: other initialisations of features, gamma '
    'and beta (binarized features are left out)',
    claim='Features from other distributions change nothing, nor do gamma 1 and gamma in [-1, 1]; '
    'beta 1 adds 1 to 3 points where BN alone is trained, and none or less where all are.',
    arms=sweep(
        CONFIG,
        SCALES,
        lambda scale: {
            f'{row}, {name}, {n}': depth(n) | TRAINED[row] | {'model.backbone.init_cfg': init}
            for n in (DEPTHS[scale][-1:] if scale == 'smoke' else DEPTHS[scale])
            for name, init in _INITS.items()
            for row in (('BN',) if scale == 'smoke' or name in _FEATURES else ('BN', 'all'))
        },
    ),
    table=GridTable('top-1 % at depth', '{top1:.1f}'),
    panels=[over_columns('depth', 'top1')],
)
