from ..experiment import Experiment, sweep
from ..scales import KEEP_ALL, PICTURES_100
from ._implicit import CONFIG_100, NETS, by_decay
from ._paths import by_epoch

_WHOLE = {'Adam L2': (1e-5, 1e-4), 'SGD L2': (5e-4, 1e-3)}  # of SGD figure 2 has the weak one
_DECAYS = dict(smoke={'Adam L2': (1e-5,), 'SGD L2': (5e-4,)}, small=_WHOLE, paper=_WHOLE)

EXPERIMENT = Experiment(
    shows='figure 2 and supplementary figure 1 of the implicit-sparsity paper: gamma and beta of '
    'C6 and C5 over the epochs on CIFAR-100, as percentiles over their channels',
    claim='Gamma is positive with both optimizers; beta is negative with Adam, of both signs with '
    'SGD, so that Adam learns more selective features, which the stronger L2 prunes.',
    arms=sweep(
        CONFIG_100,
        NETS,
        lambda scale: {n: of | KEEP_ALL for n, of in by_decay(scale, _DECAYS[scale]).items()},
    ),
    **by_epoch('optimizer, decay', 'gamma_path', 'beta_path', 'gamma_path_c5', 'beta_path_c5'),
    data=PICTURES_100,
)
