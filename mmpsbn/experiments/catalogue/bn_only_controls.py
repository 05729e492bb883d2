from ..experiment import Experiment
from ._bn_only import DEEP, TRAINED, trained

ROWS = TRAINED | {f'{k} random a channel': trained(per_channel=k) for k in (4, 8, 16)}
ROWS |= {'2 random a channel + output': trained('head.fc', per_channel=2)}

EXPERIMENT = Experiment(
    shows='the controls of figure 2 of the BN-only paper, and figures 13 and 14, deep nets: other '
    'sets of parameters trained',
    claim='Two random weights a channel, as many as gamma and beta, reach far less than BN; it '
    'takes 8 for the shallower nets and 16 for the deeper ones. BN + output is a little better '
    'than BN, two random weights + output match it at best.',
    arms=DEEP.arms(ROWS, smoke=('BN + output', 'output', '2 random a channel')),
    **DEEP.top1,
)
