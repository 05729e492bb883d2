"""section 5.3 of the psBN paper on CIFAR-10: pretrained on five classes, finetuned on ten"""

from ...experiment import Arm, Experiment
from ...pictures import over_stages
from ...tables import ArmTable
from ._rounds import CONFIG, NORMS, rounds

# The paper finetunes on COCO only. Here: five classes of CIFAR-10, then all ten with a new head,
# so that the task changes and the pictures do not, at the full learning rate again and, for
# comparison, at a tenth. small: S = 3.8, then 5.0 (0.5 at a tenth); paper: its rounds on CIFAR-10
_STAGES = dict(smoke=(1, 1), small=(24, 32), paper=(100, 100))  # epochs
_FIVE = {'model.head.num_classes': 5} | {
    f'{split}_dataloader.dataset.num_classes': 5 for split in ('train', 'val', 'test')
}
_PAIRS = (('BN', 'BN', 0.1), ('BN', 'BN', 0.01), ('BN', 'psBN', 0.1), ('psBN', 'psBN', 0.1))


def _arms(scale: str) -> list[Arm]:
    first, second = _STAGES[scale]
    five = rounds(scale, epochs=first) | _FIVE
    arms = [Arm(f'{norm} on five', CONFIG, five | change) for norm, change in NORMS.items()]
    for before, after, lr in _PAIRS:
        name, start = f'{before} on five -> {after}, {lr}', f'{before} on five'
        options = rounds(scale, epochs=second, lr=lr) | NORMS[after]
        arms.append(Arm(name, CONFIG, options, pretrained=start))
    return arms


EXPERIMENT = Experiment(
    claim='The sudden rise of the learning rate when a net is finetuned collapses filters under '
    'BN, and psBN avoids it.',
    arms=_arms,
    table=ArmTable(
        'pretrained -> finetuned, LR',
        {
            'FLOPs sparsity, %': '{flops_sparsity:.1p}',
            'collapsed': '{collapsed} of {channels}',
            'dead': '{dead} of {prunable}',
            'top-1, %': '{top1:.1f}',
        },
    ),
    panels=over_stages('flops_sparsity', 'dead_share'),
)
