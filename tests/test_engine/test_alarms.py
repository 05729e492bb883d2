"""Alarms of SparsityHook: when they come, and what they say of causes and remedies."""

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import MODELS, OPTIMIZERS
from runs import demp, killing, resume_from
from test_sparsity_hook import HOOK, watch
from toy import ToyNet, kill_channels

from mmpsbn.engine.sparsity.alarm import Alarm
from mmpsbn.pruning.measures import ChannelCounts

COLLAPSED = dict(HOOK, warn_at=dict(collapsed=0.05))


def alarms(messages):
    return [m for m in messages if m.startswith('sparsity alarm')]


def test_an_alarm_names_share_layers_and_that_it_was_so_before(tmp_path):
    hook = dict(HOOK, warn_at=dict(collapsed=0.05, dead=0.9))
    (text,) = alarms(watch(tmp_path, hook=hook, epochs=2)[1])
    assert '3 of 48 filters, 6.2%' in text and 'collapsed, warn_at 5.0%, 6.2% when' in text
    assert 'Worst layers: blocks.0.bn1 3 of 12.' in text
    assert 'came dead with the loaded weights' in text


class OwnAdamW(torch.optim.AdamW):
    """Of whose decay nothing is known."""


OPTIMIZERS.register_module(module=OwnAdamW, force=True)


def sgd(lr, **settings):
    return dict(optimizer=dict(type='SGD', lr=lr, **settings))


def adam(kind):
    return dict(optimizer=dict(type=kind, lr=1e-4, weight_decay=1e-4))


@pytest.mark.parametrize(
    'optim_wrapper, norm, said, unsaid',
    [
        (adam('Adam'), 'BN', ['inside the steps of Adam', 'decouple', 'eps=1e-08'], ["'psBN'"]),
        (adam('AdamW'), 'BN', ['on gamma, which shrinks', "'psBN'"], ['inside the steps', 'eps=']),
        (adam('OwnAdamW'), 'BN', ['on gamma, which shrinks'], ['inside the steps']),
        (None, 'BN', ['learning rate, 0.05', 'on gamma, which shrinks'], ['no weight decay on']),
        (sgd(0.01), 'psBN', ['learning rate, 0.01', 'no weight decay on beta'], ['on gamma']),
        (None, 'psBN', ['on gamma, which shrinks'], ["'psBN'", 'no weight decay on']),
    ],
)
def test_the_causes_are_those_the_settings_allow(tmp_path, optim_wrapper, norm, said, unsaid):
    class Kill(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            kill_channels(runner.model.blocks[0].bn1, [0, 1, 2])

    kwargs = dict(norm=norm, optim_wrapper=optim_wrapper, epochs=1)
    (text,) = alarms(watch(tmp_path, killing(), [Kill()], COLLAPSED, **kwargs)[1])
    assert all(part in text for part in said), text
    assert not any(part in text for part in [*unsaid, 'loaded weights']), text


@MODELS.register_module(force=True)
class FrozenNet(ToyNet):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        kill_channels(self.blocks[0].bn1, [0, 1, 2])
        self.blocks[0].bn1.requires_grad_(False)


@pytest.mark.parametrize(
    'net, layer', [('FrozenNet', 'blocks.0.bn1 3 of 12'), ('HiddenNet', 'hidden 5 of 10')]
)
def test_settings_that_act_on_no_scale_are_not_blamed(tmp_path, net, layer):
    hook = dict(HOOK, warn_at=dict(dead=0.01), layers=[layer.split()[0]], measures=['dead'])
    _, messages = watch(tmp_path, killing(), hook=hook, epochs=1, model=dict(type=net))
    (text,) = alarms(messages)
    assert layer in text and 'no scale of these layers is trained' in text
    assert 'learning rate' not in text and 'weight_decay' not in text


def test_a_resumed_run_does_not_blame_the_weights_it_goes_on_with(tmp_path):
    watch(tmp_path, hook=COLLAPSED, epochs=1)
    go_on = resume_from(tmp_path / 'epoch_1.pth')
    (text,) = alarms(watch(tmp_path, killing(), hook=COLLAPSED, epochs=2, **go_on)[1])
    assert 'started' not in text and 'loaded weights' not in text


def test_under_demp_dying_is_no_accident(tmp_path):
    _, messages = watch(tmp_path, hooks=[demp(interval=3)], hook=COLLAPSED, epochs=1)
    assert alarms(messages)[0].endswith(
        '(1) DemPHook is at work, which makes filters die on purpose'
    )


def test_an_alarm_comes_again_when_the_share_has_doubled():
    alarm = Alarm('warn_at', dict(collapsed=0.1), ['collapsed'])

    def reached(found):
        counts = ChannelCounts({'a': torch.arange(100) < found})
        return bool(alarm.reached(dict(collapsed=counts)))

    assert [reached(n) for n in (9, 10, 19, 20, 39, 45, 9, 12)] == [
        *(False, True, False, True, False, True, False, True),
    ]


@pytest.mark.parametrize('kwargs, iters', [(dict(epochs=4), 4), (dict(iters=16), 2)])
def test_stop_at_ends_training(tmp_path, kwargs, iters):
    hook = dict(HOOK, stop_at=dict(collapsed=0.05))
    runner, messages = watch(tmp_path, hook=hook, **kwargs)
    assert runner.iter == iters  # by epochs at the end of one
    assert alarms(messages)[0].endswith('Training stops') and 'stop_at 5.0%' in alarms(messages)[0]
