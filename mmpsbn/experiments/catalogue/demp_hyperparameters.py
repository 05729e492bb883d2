from ..experiment import Arm, Experiment, Options
from ..pictures import against
from ..tables import ArmTable
from ._demp import SCALES

_LR, _DECAY = 'optim_wrapper.optimizer.lr', 'optim_wrapper.optimizer.weight_decay'
_EPS = 'optim_wrapper.optimizer.eps'
# of the scale's: as many steps of half the batch; channels
_BATCH = ('train_dataloader.batch_size', 'train_cfg.max_epochs', 'train_cfg.val_interval')
_BATCH += ('param_scheduler.step_size',)
_WIDTH = ('model.backbone.base_channels', 'model.backbone.stem_channels', 'model.head.in_channels')
_FACTORS = {
    'half the batch': dict.fromkeys(_BATCH, 0.5),
    'half as wide': dict.fromkeys(_WIDTH, 0.5),
    'twice as wide': dict.fromkeys(_WIDTH, 2),
}
# figure 10 begins at a rate of 0.05 and no decay; its other values are in bars alone: ours
_SGDM = {
    'base': {},
    'LR 0.1': {_LR: 0.1},
    'LR 0.2': {_LR: 0.2},
    'decay 5e-4': {_DECAY: 5e-4},
    'decay 2e-3': {_DECAY: 2e-3},
    **dict.fromkeys(_FACTORS, {}),
}
_ADAM = {f'eps {eps:g}': {_EPS: eps} for eps in (1e-10, 1e-8, 1e-6, 1e-4)}
_SHOWN = dict(
    smoke=('half the batch', 'eps 0.0001'),
    small=(
        'base',
        'LR 0.2',
        'half the batch',
        'half as wide',
        'decay 2e-3',
        'eps 1e-10',
        'eps 0.0001',
    ),
    paper=(*_SGDM, *_ADAM),
)


def _arms(scale: str) -> list[Arm]:
    common = SCALES[scale] | {'custom_hooks': [dict(type='SparsityHook')]}
    base = common | {_LR: 0.05, _DECAY: 0.0}

    def scaled(name: str) -> Options:
        factors = _FACTORS.get(name, {}).items()
        return {key: max(1, int(common[key] * factor)) for key, factor in factors}

    arms = {name: ('sgdm', base | own | scaled(name)) for name, own in _SGDM.items()}
    arms |= {name: ('adam', common | own) for name, own in _ADAM.items()}
    shown = {name: arms[name] for name in _SHOWN[scale]}
    return [
        Arm(f'{optimizer}, {name}', f'demp_cls/resnet18_{optimizer}_cifar10.py', options)
        for name, (optimizer, options) in shown.items()
    ]


EXPERIMENT = Experiment(
    shows='figures 10 and 11 of the DemP paper: dead neurons of a dense '
    'ResNet-18 against learning rate, batch size, decay, width and the eps of Adam',
    claim='Wider nets, larger rates, smaller batches and decay kill more neurons, a larger eps of '
    'Adam fewer: 5.07 % at 1e-10 and none at 1e-4.',
    arms={scale: _arms(scale) for scale in SCALES},
    table=ArmTable(
        'optimizer, setting', {'dead, %': '{inactive_share:.1p}', 'top-1, %': '{top1:.1f}'}
    ),
    panels=[against('inactive_share', 'top1')],
)
