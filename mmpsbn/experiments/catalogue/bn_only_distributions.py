from ..experiment import Experiment, sweep
from ..pictures import over_steps
from ..tables import ArmTable
from ._bn_only import CONFIG, SCALES, TRAINED, depth

_DEPTH = dict(smoke=8, small=32, paper=110)

EXPERIMENT = Experiment(
    shows='figure 4 of the BN-only paper, and one deep net of figures 15, 16 and 23: gamma, beta '
    'and Pr[a = 0]',
    claim='Trained alone gamma has a peak at 0; many activations are always off or always on, '
    'where with all trained many are on some of the time (10 % to 70 %).',
    arms=sweep(
        CONFIG,
        SCALES,
        lambda scale: {row: depth(_DEPTH[scale]) | TRAINED[row] for row in ('all', 'BN')},
    ),
    table=ArmTable(
        'mean Pr[a = 0] in % of ReLU',
        {'gamma < 0, %': '{negative_gammas:.0p}', 'ReLUs off, %': '{relus_off:.0p}'},
        step='{zeros_by_layer:.0p}',
    ),
    panels=[
        *(
            over_steps('5 % of the channels, from the smallest', f'{of}_quantiles')
            for of in ('gamma', 'beta', 'zero')
        ),
        over_steps('ReLU', 'zeros_by_layer'),
    ],
)
