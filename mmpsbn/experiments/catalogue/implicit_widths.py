from ..experiment import Experiment
from ._implicit import BY_WIDTH, CONFIG, widths

EXPERIMENT = Experiment(
    shows='table 6 of the implicit-sparsity paper, CIFAR-10: BasicNet of three widths',
    claim='The narrower the net, the fewer filters are inactive with Adam and L2 1e-4: 70, 51 and '
    '23 %.',
    arms=widths(CONFIG),
    **BY_WIDTH,
)
