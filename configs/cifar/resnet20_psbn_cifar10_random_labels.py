# The training labels are shuffled, those of the test set are not.
_base_ = './resnet20_psbn_cifar10_in_memory.py'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='NoisyLabels',
        _scope_='mmpretrain',
        fraction=1.0,
        kind='permute',
        seed=0,
        dataset=_base_.train_dataloader.dataset,
    )
)
