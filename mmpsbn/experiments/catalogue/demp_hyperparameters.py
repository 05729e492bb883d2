from ..experiment import Arm, Experiment, Options
from ..pictures import against
from ..tables import ArmTable
from ._demp import SCALES

_LR, _DECAY = 'optim_wrapper.optimizer.lr', 'optim_wrapper.optimizer.weight_decay'
_EPS, _BATCH = 'optim_wrapper.optimizer.eps', 'train_dataloader.batch_size'
# figure 10 begins at a rate of 0.05 and no decay; its other values are in bars alone: ours
_SGDM = {
    'base': {},
    'LR 0.1': {_LR: 0.1},
    'LR 0.2': {_LR: 0.2},
    'half the batch': {_BATCH: 0.5},  # of the scale's, for as many steps
    'decay 5e-4': {_DECAY: 5e-4},
    'decay 2e-3': {_DECAY: 2e-3},
}
_ADAM = {f'eps {eps:g}': {_EPS: eps} for eps in (1e-10, 1e-8, 1e-6, 1e-4)}
_SHOWN = dict(
    smoke=('half the batch', 'eps 0.0001'),
    small=('base', 'LR 0.2', 'half the batch', 'decay 2e-3', 'eps 1e-10', 'eps 0.0001'),
    paper=(*_SGDM, *_ADAM),
)


def _arms(scale: str) -> list[Arm]:
    common = SCALES[scale] | {'custom_hooks': [dict(type='SparsityHook')]}
    base = common | {_LR: 0.05, _DECAY: 0.0}

    def options(own: Options) -> Options:
        if _BATCH not in own:
            return own
        in_epochs = 'train_cfg.max_epochs', 'train_cfg.val_interval', 'param_scheduler.step_size'
        lengths = {key: max(1, int(common[key] * own[_BATCH])) for key in in_epochs}
        return {_BATCH: int(common[_BATCH] * own[_BATCH]), **lengths}

    arms = {name: ('sgdm', base | options(own)) for name, own in _SGDM.items()}
    arms |= {name: ('adam', common | own) for name, own in _ADAM.items()}
    return [
        Arm(f'{of}, {name}', f'demp_cls/resnet18_{of}_cifar10.py', arms[name][1])
        for name in _SHOWN[scale]
        for of in (arms[name][0],)
    ]


EXPERIMENT = Experiment(
    shows='the right half of figure 10 and figure 11 of the DemP paper: dead neurons of a dense '
    'ResNet-18 against learning rate, batch size, decay and the eps of Adam',
    claim='Larger rates, smaller batches and decay kill more neurons, a larger eps of Adam fewer: '
    '5.07 % at 1e-10 and none at 1e-4.',
    arms={scale: _arms(scale) for scale in SCALES},
    table=ArmTable(
        'optimizer, setting', {'dead, %': '{inactive_share:.1p}', 'top-1, %': '{top1:.1f}'}
    ),
    panels=[against('inactive_share', 'top1')],
)
