from ..experiment import Experiment
from ._psbn import by_value, one_round

# small: S = 3.9 at 0.1 and 39 at 1.0, the paper's 9.8 and 98
EXPERIMENT = Experiment(
    shows='figure 5a of the psBN paper: sparsity of ResNet-20 against the learning rate',
    claim='The larger the learning rate, the more filters collapse under BN.',
    arms=one_round(
        lambda lr: {'optim_wrapper.optimizer.lr': lr},
        smoke=(0.1, 1.0),
        small=(0.1, 0.3, 1.0),
        paper=(0.1, 0.2, 0.4, 0.6, 0.8, 1.0),
    ),
    **by_value('learning rate'),
)
