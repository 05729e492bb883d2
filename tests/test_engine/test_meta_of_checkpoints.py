"""What a checkpoint says of its pruning, on its way through the hooks: where it is wrong, it is a
ValueError, and neither model nor optimizer nor average has changed."""

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
from runs import EMA, demp, inner_widths, killing, train
from snapshots import assert_same, snapshot
from spoilt import exploding, spoilt

from mmpsbn.engine import DemPHook, PrunedCheckpointHook
from mmpsbn.engine.checkpoints.pruned_structure import META_KEY
from mmpsbn.engine.checkpoints.pruned_weights import note_plan
from mmpsbn.engine.openmmlab import forward_tensors
from mmpsbn.engine.runner_parts import averaged_models_of
from mmpsbn.pruning import PrunePlan, trace_channel_graph
from mmpsbn.pruning.activation import ActivationWindow


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """Of a pruned run, in the middle of the window of its next event."""
    folder = tmp_path_factory.mktemp('run')
    train(folder, [demp(num_samples=24), EMA], killing([1, 3, 5]))
    checkpoint = torch.load(folder / 'epoch_4.pth', weights_only=False)
    assert all(checkpoint['meta'][META_KEY]['pruner']['windows'])
    return checkpoint


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A model, its optimizer with state, and its average."""
    runner, _ = train(tmp_path_factory.mktemp('dense'), [EMA], epochs=1)
    return runner.model, runner.optim_wrapper.optimizer, averaged_models_of(runner)[0]


def resuming_runner(trained):
    """What the hooks need of a runner, on copies."""
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


def models_of(runner):
    return [runner.model, *averaged_models_of(runner)]


def snapshot_of(runner):
    return [snapshot(model, runner.optim_wrapper.optimizer) for model in models_of(runner)]


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


def load(checkpoint, meta, runner, hook=None):
    hook = hook or DemPHook(prune=dict(interval=6, num_samples=24))
    hook.after_load_checkpoint(runner, dict(checkpoint, meta={META_KEY: meta}))
    return hook


def test_the_checkpoint_itself_loads(checkpoint, trained):
    runner, meta = resuming_runner(trained), checkpoint['meta'][META_KEY]
    assert through_a_file(meta) == meta
    hook = load(checkpoint, through_a_file(meta), runner)
    assert hook.pruner.state() == meta['pruner']
    assert [inner_widths(model) for model in models_of(runner)] == [[9, 12]] * 2


@settings(max_examples=150)
@given(st.data())
def test_a_stranger_s_plan_is_a_value_error_or_loads_and_never_half(checkpoint, trained, data):
    plan = data.draw(spoilt(checkpoint['meta'][META_KEY]['plan']))
    meta, runner = through_a_file(dict(plan=plan)), resuming_runner(trained)
    before = snapshot_of(runner)
    try:
        load(checkpoint, meta, runner, PrunedCheckpointHook())
    except ValueError as error:
        assert len(str(error)) < 1000
        assert_same(snapshot_of(runner), before)
    else:
        PrunePlan.from_dict(meta['plan'])
        shapes = {name: x.shape for name, x in checkpoint['state_dict'].items()}
        for model in models_of(runner):
            assert {name: x.shape for name, x in model.state_dict().items()} == shapes


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda m: m.pop('noise_seed'), "state has no 'noise_seed', so it is of another version"),
        (lambda m: m['pruner'].pop('channel_dims'), "its pruning state has no 'channel_dims', so"),
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
        window.restore(dict(fc=dict(samples=1, low=[0.0], high=[0.0])))
    window.close()
