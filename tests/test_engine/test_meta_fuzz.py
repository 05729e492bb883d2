"""What a checkpoint says of its pruning, spoilt, on its way through the hooks: a ValueError,
and neither model nor optimizer nor average has changed."""

import copy
import io
import pickle
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.hooks import EMAHook
from mmengine.optim import OptimWrapper
from snapshots import assert_same, snapshot
from spoilt import exploding, spoilt
from toy import kill_channels, toy_runner

from mmpsbn.engine.checkpoints.pruned_checkpoint_hook import PrunedCheckpointHook
from mmpsbn.engine.checkpoints.pruned_structure import META_KEY
from mmpsbn.engine.checkpoints.pruned_weights import note_plan
from mmpsbn.engine.demp.demp_hook import DemPHook
from mmpsbn.engine.openmmlab import forward_tensors
from mmpsbn.engine.runner_parts import averaged_models_of
from mmpsbn.pruning import PrunePlan, trace_channel_graph
from mmpsbn.pruning.activation import ActivationWindow

HOOKS = [dict(type='DemPHook', prune=dict(interval=6, num_samples=24)), dict(type='EMAHook')]


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """Of a pruned run, in the middle of the window of its next event."""
    folder = tmp_path_factory.mktemp('run')
    runner = toy_runner(folder, HOOKS)
    kill_channels(runner.model.blocks[0].bn1, [1, 3, 5])
    runner.train()
    checkpoint = torch.load(folder / 'epoch_4.pth', weights_only=False)
    middle = torch.load(folder / 'epoch_1.pth', weights_only=False)['meta'][META_KEY]
    assert all(middle['pruner']['windows']) and checkpoint['meta'][META_KEY]['plan']['tensors']
    checkpoint['meta'][META_KEY]['pruner']['windows'] = middle['pruner']['windows']
    return checkpoint


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A model, its optimizer with state, and its average."""
    runner = toy_runner(tmp_path_factory.mktemp('dense'), HOOKS[1:], epochs=1)
    runner.train()
    return runner.model, runner.optim_wrapper.optimizer, averaged_models_of(runner)[0]


def resuming_runner(trained):
    """What the hook needs of a runner, on copies."""
    model, optimizer, average = copy.deepcopy(trained)
    ema_hook = EMAHook()
    ema_hook.ema_model = SimpleNamespace(module=average, update_buffers=False)
    return SimpleNamespace(
        model=model,
        optim_wrapper=OptimWrapper(optimizer),
        hooks=[ema_hook],
        _train_loop={},
        _resume=True,
    )


def snapshot_of(runner):
    models = [runner.model, *averaged_models_of(runner)]
    return [snapshot(model, runner.optim_wrapper.optimizer) for model in models]


def through_a_file(meta):
    """What safe loading makes of it."""
    file = io.BytesIO()
    try:
        torch.save(meta, file)
    except RecursionError:
        return meta
    file.seek(0)
    try:
        return torch.load(file, weights_only=True)
    except pickle.UnpicklingError:  # bytes and the longest ints
        return meta


def load(checkpoint, meta, runner):
    hook = DemPHook(prune=dict(interval=6, num_samples=24))
    checkpoint = dict(checkpoint, meta=dict(checkpoint['meta'], **{META_KEY: meta}))
    hook.after_load_checkpoint(runner, checkpoint)
    return hook


def test_the_checkpoint_itself_loads(checkpoint, trained):
    runner, meta = resuming_runner(trained), checkpoint['meta'][META_KEY]
    assert through_a_file(meta) == meta
    hook = load(checkpoint, through_a_file(meta), runner)
    assert hook.pruner.state() == meta['pruner']
    for model in (runner.model, *averaged_models_of(runner)):
        assert model.blocks[0].conv1.out_channels == 9


def fc_saw(samples, low, high):
    return dict(fc=dict(samples=samples, low=low, high=high))


@settings(max_examples=400)
@given(st.data())
def test_a_spoilt_checkpoint_is_a_value_error_or_loads_and_never_half(checkpoint, trained, data):
    meta = through_a_file(data.draw(spoilt(checkpoint['meta'][META_KEY])))
    runner = resuming_runner(trained)
    before = snapshot_of(runner)
    try:
        hook = load(checkpoint, meta, runner)
    except ValueError as error:
        assert len(str(error)) < 1000
        assert_same(snapshot_of(runner), before)
    else:
        state = hook.pruner.state()
        assert hook.pruner.structure.plan == PrunePlan.from_dict(meta['plan'])
        if 'pruner' in meta:
            assert {key: meta['pruner'][key] for key in state} == state
        shapes = {name: x.shape for name, x in checkpoint['state_dict'].items()}
        for model in (runner.model, *averaged_models_of(runner)):
            assert {name: x.shape for name, x in model.state_dict().items()} == shapes


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda m: m.update(noise_seed=-1), 'noise_seed .* must be an int >= 0, got -1'),
        (lambda m: m.update(noise_seed=True), 'noise_seed .* got True'),
        (lambda m: m.update(noise_seed=2**64), 'noise_seed .* got 18446744073709551616'),
        (lambda m: m.pop('noise_seed'), 'noise_seed .* got None'),
        (lambda m: m.update(pruner=[1]), r'pruner .* must be a dict, got \[1\]'),
        (lambda m: m['pruner'].update(dense=dict(channels=0, macs=1)), 'dense .* positive counts'),
        (lambda m: m['pruner'].update(windows={}), 'windows .* a list of windows'),
        (lambda m: m['pruner'].update(windows=[{'fc': [1.0]}]), 'windows .* lists of floats'),
        (lambda m: m['pruner'].update(windows=[fc_saw(1, [0.0], [0])]), 'windows .* lists of flo'),
        (lambda m: m['pruner'].update(windows=[fc_saw(1, [1.0], [0.0])]), 'low and high'),
        (lambda m: m['pruner'].update(windows=[fc_saw(-1, [0.0], [0.0])]), 'each with samples'),
        (lambda m: m['pruner'].update(removed=-1), 'removed .* an int >= 0, got -1'),
        (
            lambda m: m['pruner'].update(positions={'fc': 1}),
            r"positions .* names of weights, each with a number >= 0, got {'fc': 1}",
        ),
        (lambda m: m['pruner'].update(positions={'fc.weight': -1}), 'positions .* number >= 0'),
        (lambda m: m['pruner'].update(channel_dims={'fc.weight': 2}), 'channel_dims .* 0 or 1'),
        (lambda m: m['pruner'].update(positions={'fc.weight': 10**999}), 'positions .* number >='),
        (
            lambda m: m['pruner'].update(counted_size=[8, 0]),
            r'counted_size .* must be a list of ints > 0, got \[8, 0\]',
        ),
        (lambda m: m['pruner'].pop('budget'), 'budget .* None or scale, met, .* got None'),
        (
            lambda m: m['pruner'].update(held='stem'),
            'held .* a list of names of groups',
        ),
        (lambda m: m['pruner'].update(training_only={'aux': 1}), 'training_only .* with a text'),
        (lambda m: m['pruner'].update(samples=1.5), 'samples .* an int >= 0, got 1.5'),
        (lambda m: m['pruner'].update(samples=exploding()), 'samples .* an int >= 0, got'),
        (lambda m: m.pop('plan'), 'prune plan version must be 1, got None'),
        (lambda m: m['plan']['tensors'].popitem(), 'has shape .* in the checkpoint and'),
    ],
)
def test_the_message_names_what_is_wrong(checkpoint, trained, change, message):
    meta, runner = copy.deepcopy(checkpoint['meta'][META_KEY]), resuming_runner(trained)
    change(meta)
    before = snapshot_of(runner)
    with pytest.raises(ValueError, match=message):
        load(checkpoint, meta, runner)
    assert_same(snapshot_of(runner), before)


@pytest.mark.parametrize('meta', [[], 3, 'plan', {'plan': None}, exploding()])
@pytest.mark.parametrize('load', [PrunedCheckpointHook().after_load_checkpoint, note_plan])
def test_what_does_not_prune_refuses_it_too(checkpoint, trained, meta, load):
    runner = resuming_runner(trained)
    before = snapshot_of(runner)
    checkpoint = dict(checkpoint, meta={META_KEY: meta})
    with pytest.raises(ValueError, match='must be a dict, got|version must be 1, got None'):
        load(*(runner, checkpoint)[load is note_plan :])
    assert_same(snapshot_of(runner), before)


def test_a_saved_window_of_another_width_is_an_error_that_names_the_layer(trained):
    model, batch = trained[0], torch.randn(1, 3, 8, 8)
    groups = trace_channel_graph(model, batch, forward_tensors).groups
    window = ActivationWindow(model, groups, in_training_only=False)
    with pytest.raises(ValueError, match='fc reads 8 channels, its saved window has 1'):
        window.restore(fc_saw(1, [0.0], [0.0]))
    window.close()
