"""figure 2 of the psBN paper: training loss and sparsity of ResNet-20 on random labels"""

from ...experiment import Experiment, sweep
from ...pictures import over_steps
from ...tables import ArmTable
from ._rounds import NORMS, rounds

# small: 2,000 images that are not augmented, so that so few steps can fit them (5,000 of them BN
# does not fit in a round), and half the decay; S = 32 * 90 steps * 0.05 * 1e-3 / 0.1 = 1.4 a
# round, 7.2 in all
_NOT_AUGMENTED = {
    'train_dataloader.dataset.dataset.num_samples': 2_000,
    'data_preprocessor.padding': 0,
    'data_preprocessor.flip_prob': 0.0,
}
_ROUNDS = dict(
    smoke=rounds('smoke', 2),
    small=rounds('small', 5, epochs=90, weight_decay=1e-3) | _NOT_AUGMENTED,
    paper=rounds('paper', 5),
)

EXPERIMENT = Experiment(
    claim='Filters collapse on labels without structure too: the FLOPs sparsity grows with every '
    'round, until in the fifth the net no longer fits the data.',
    arms=lambda scale: sweep('cifar/resnet20_psbn_cifar10_random_labels.py', _ROUNDS[scale], NORMS),
    table=ArmTable(
        'FLOPs sparsity % / dead / training loss after round',
        step='{flops_sparsity:.1p} / {dead} / {loss:.2f}',
    ),
    panels=over_steps('round', 'loss', 'flops_sparsity'),
)
