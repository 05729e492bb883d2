"""Work folders of arms as if they had been trained, and what is read of them."""

import copy

import torch
from mmengine.logging import HistoryBuffer
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from snapshots import assert_same

from mmpsbn.commands.recalibration import recalibrate_batch_norms
from mmpsbn.engine.openmmlab import model_cfg_of
from mmpsbn.experiments import EXPERIMENTS
from mmpsbn.experiments.measure import MEASURES
from mmpsbn.experiments.reproduce import config_of
from mmpsbn.experiments.scales import data_settings, set_data
from mmpsbn.experiments.trained import TrainedArm

# channels of BasicNet 32-0.25x
WIDTHS = [32, 32, 32, 64, 64, 128, 128]


def as_if_trained(
    folder, data, experiment, arm, change=lambda state, norms: None, logged=None, **history
):
    """The work folder of an arm at ``smoke``, with fresh weights and statistics of its data, spoilt
    by ``change(state dict, names of its norm layers)``."""
    (arm,) = (a for a in EXPERIMENTS[experiment].arms('smoke') if a.name == arm)
    config = config_of(arm)
    set_data(config, data_settings('smoke', str(data), default_folder=data))
    config.dump(str(folder / 'config.py'))
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = MODELS.build(model_cfg_of(config))
    model.init_weights()
    recalibrate_batch_norms(model, [images_of(model, config, 'train')])
    state = model.state_dict()
    change(state, [n.removesuffix('.running_mean') for n in state if 'running_mean' in n])
    scalars = {f'train/{name}': values for name, values in (logged or {}).items()}
    scalars |= {f'train/{name}': history.get(name, [1.0]) for name in ('loss', 'time')}
    hub = dict(log_scalars={n: HistoryBuffer(x, [1] * len(x)) for n, x in scalars.items()})
    torch.save(dict(state_dict=state, message_hub=hub, meta={}), folder / 'epoch_1.pth')
    return folder


def read(folder, *names):
    arm = TrainedArm(folder)
    before = copy.deepcopy(arm.model.state_dict())
    numbers = {name: MEASURES[name].read(arm) for name in names}
    assert_same(arm.model.state_dict(), before)
    return numbers


def weights_of(sizes):
    """Of BasicNet's convolutions: 5x5, then 3x3."""
    kernels = [25, *[9] * 6]
    return sum(k * a * b for k, a, b in zip(kernels, [3, *sizes], sizes))


def watch_relus(arm, images):
    """Of each call of a ReLU in the net's convolutional part: shape (C,), share of zeros."""
    shares = []
    for module in arm.model.backbone.modules():
        if isinstance(module, torch.nn.ReLU):
            module.register_forward_hook(
                lambda module, args, out: shares.append((out == 0).float().mean((0, 2, 3)))
            )
    with torch.no_grad():
        arm.model(images, mode='tensor')
    return torch.cat(shares)


def images_of(model, config, split):
    """All of them in one batch, as the model sees them."""
    loader = Runner.build_dataloader(dict(config[f'{split}_dataloader'], batch_size=1000), seed=0)
    (batch,) = loader
    return model.data_preprocessor(batch, training=False)['inputs']
