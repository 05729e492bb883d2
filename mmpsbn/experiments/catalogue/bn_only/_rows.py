"""What is trained of a net, and how that was initialised."""

from typing import Any

from ...experiment import Options
from ._nets import CONVOLUTIONS, NORMS


def trained(*parts: str, **settings: Any) -> Options:
    """Only these parts, see ``FreezeHook``; all without any."""
    freeze = [dict(type='FreezeHook', train=list(parts), **settings)] if parts or settings else []
    return {'custom_hooks': [dict(type='SparsityHook'), *freeze]}


BOTH = {'all': trained(), 'BN': trained('norm')}
TRAINED = BOTH | {
    'BN + output': trained('norm', 'head.fc'),
    'output': trained('head.fc'),
    '2 random a channel': trained(per_channel=2),
}
# 1 and 0 for good
DISABLED = {
    'all but gamma and beta': {
        'model.backbone.init_cfg': [CONVOLUTIONS, dict(type='NormAffine')],
        'custom_hooks': [dict(type='SparsityHook'), dict(type='FreezeHook', freeze=['norm'])],
    }
}
# other sets of parameters
CONTROLS = TRAINED | {f'{k} random a channel': trained(per_channel=k) for k in (4, 8, 16)}
CONTROLS |= {'2 random a channel + output': trained('head.fc', per_channel=2)}
SHORTCUTS = BOTH | {
    'BN + shortcuts + output': trained('norm', 'downsample.0', 'head.fc'),
    'shortcuts + output': trained('downsample.0', 'head.fc'),
}
_INITS = {
    'uniform features': [dict(CONVOLUTIONS, distribution='uniform'), NORMS],
    'binarized features': [dict(type='RandomFilters', kind='binarized'), NORMS],
    'orthogonal features': [dict(type='RandomFilters', kind='orthogonal'), NORMS],
    'gamma 1': [CONVOLUTIONS, dict(type='NormAffine')],
    'gamma in [-1, 1]': [CONVOLUTIONS, dict(type='NormAffine', gamma=[-1, 1])],
    'gamma 1, beta 1': [CONVOLUTIONS, dict(type='NormAffine', beta=1.0)],
}
INITIALISED = BOTH | {
    f'{row}, {name}': of | {'model.backbone.init_cfg': init}
    for name, init in _INITS.items()
    for row, of in BOTH.items()
}
