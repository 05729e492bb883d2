from ..experiment import Experiment
from ..pictures import against
from ..scales import PICTURES_100
from ..tables import ArmTable
from ._implicit import CONFIG_100, widths

EXPERIMENT = Experiment(
    shows='table 6 of the implicit-sparsity paper, CIFAR-100: BasicNet of three widths',
    claim='The narrower the net, the fewer filters are inactive with Adam and L2 1e-4: 46, 10 and '
    '0 %.',
    arms=widths(CONFIG_100),
    table=ArmTable(
        'width',
        {
            'training loss': '{loss:.2f}',
            'test error, %': '{error:.1f}',
            'inactive by gamma, %': '{small_share:.0p}',
        },
    ),
    panels=[against('small_share', 'error')],
    data=PICTURES_100,
)
