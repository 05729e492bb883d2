from ..experiment import Experiment
from ..pictures import against
from ..tables import ArmTable
from ._implicit import CONFIG, widths

EXPERIMENT = Experiment(
    shows='table 6 of the implicit-sparsity paper, CIFAR-10: BasicNet of three widths',
    claim='The narrower the net, the fewer filters are inactive with Adam and L2 1e-4: 70, 51 and '
    '23 %.',
    arms=widths(CONFIG),
    table=ArmTable(
        'width',
        {
            'training loss': '{loss:.2f}',
            'test error, %': '{error:.1f}',
            'inactive by gamma, %': '{small_share:.0p}',
        },
    ),
    panels=[against('small_share', 'error')],
)
