"""What begins with gamma = 0 and grows has not collapsed."""

import copy

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS
from runs import QUIET, demp
from test_alarms import alarms
from test_sparsity_hook import scalars, train
from torch import nn
from toy import ToyNet, kill_channels, toy_runner

from mmpsbn.engine.sparsity.growth import Growth
from mmpsbn.layers import psBN2d, psGN
from mmpsbn.pruning.sparsity import begins_at_zero

WATCH = dict(type='SparsityHook', interval=1, measures=['collapsed', 'flops_sparsity'])
ZERO_INIT = dict(model=dict(type='ZeroInit'), prepare=lambda runner: None)


@MODELS.register_module(force=True)
class ZeroInit(ToyNet):
    """Of 48 channels the 16 behind the residual branches begin at 0."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        for block in self.blocks:
            nn.init.zeros_(block.bn2.weight)


@HOOKS.register_module(force=True)
class SetGamma(Hook):
    """Writes gammas of ``blocks.0.bn2``: iteration -> channel -> value."""

    priority = 'VERY_HIGH'

    def __init__(self, course):
        self.course = course

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        with torch.no_grad():
            for channel, value in self.course.get(runner.iter + 1, {}).items():
                runner.model.blocks[0].bn2.weight[channel] = value


def still():
    """An optimizer that leaves all as it is."""
    return dict(optimizer=dict(type='SGD', lr=1e-12))


def counts(runner):
    return {r['step']: (r['sparsity/collapsed'], r['sparsity/not_grown']) for r in scalars(runner)}


def test_what_never_lived_has_not_collapsed(tmp_path):
    hook = dict(WATCH, warn_at=dict(collapsed=0.01), gamma_threshold=[1e-3, 0.5])
    runner, messages = train(tmp_path, [hook], epochs=1, optim_wrapper=still(), **ZERO_INIT)
    assert set(counts(runner).values()) == {(0, 16)} and not alarms(messages)
    last = scalars(runner)[-1]
    assert last['sparsity/flops_sparsity'] == last['sparsity/collapsed_below_0.5_fraction'] == 0
    line = next(m for m in messages if m.startswith('sparsity:'))
    assert '0 of 48 filters collapsed (|gamma| < 0.001), 0.00%; ' in line
    assert '; 16 not grown yet (their gamma began at 0)' in line


def test_what_has_grown_and_fallen_has_collapsed(tmp_path):
    course = {2: {0: 0.1, 1: -0.1, 2: 9e-3}, 3: {0: 1e-4, 2: 0.0}}
    runner, _ = train(
        tmp_path,
        [dict(type='SetGamma', course=course), WATCH],
        epochs=1,
        optim_wrapper=still(),
        **ZERO_INIT,
    )
    assert counts(runner) == {1: (0, 16), 2: (0, 13), 3: (1, 14), 4: (1, 14)}


def test_in_training_they_grow(tmp_path):
    runner, _ = train(tmp_path, [WATCH], epochs=4, **ZERO_INIT)
    course = list(counts(runner).values())
    assert course[0] == (0, 16) and course[-1][1] <= 2
    # also where a gamma of 0.002, say, passes through 0
    assert all(collapsed == 0 for collapsed, _ in course)


def test_a_resumed_run_remembers_what_had_grown(tmp_path):
    course = {3: {0: 0.1}, 6: {0: 1e-4}}
    hooks = [dict(type='SetGamma', course=course), dict(WATCH, interval=3)]
    sgd = dict(optim_wrapper=still(), epochs=2)
    whole, _ = train(tmp_path / 'whole', copy.deepcopy(hooks), **sgd, **ZERO_INIT)
    resumed, _ = train(
        tmp_path / 'resumed',
        copy.deepcopy(hooks),
        resume=True,
        load_from=str(tmp_path / 'whole/epoch_1.pth'),
        **sgd,
        **ZERO_INIT,
    )
    assert counts(whole) == {3: (0, 15), 4: (0, 15), 6: (1, 15), 8: (1, 15)}
    assert counts(resumed) == {6: (1, 15), 8: (1, 15)}


def test_it_follows_channels_through_pruning_and_a_resume(tmp_path):
    def prepare(runner):
        """Channels 0 and 3 of the stream are dead in all their writers."""
        for norm in (runner.model.norm, *(block.bn2 for block in runner.model.blocks)):
            norm.bias.requires_grad_(False)
        kill_channels(runner.model.norm, [0, 3])

    course = {1: {7: 0.1, 1: 0.1}, 4: {5: 1e-4}, 6: {5: 0.0}}  # of the stream's 8, then of 6
    hooks = [
        dict(type='SetGamma', course=course),
        dict(demp(interval=3), **QUIET),
        WATCH,
    ]
    sgd = dict(model=dict(type='ZeroInit'), optim_wrapper=still())
    whole, _ = train(tmp_path / 'whole', copy.deepcopy(hooks), prepare=prepare, epochs=2, **sgd)
    assert whole.model.stem.out_channels == 6
    # channel 7 grew, is number 5 from iteration 3 on, and collapses then; so is 1, number 0
    expected = {4: (1, 10), 5: (1, 10), 6: (1, 10), 7: (1, 10), 8: (1, 10)}
    assert {step: found for step, found in counts(whole).items() if step > 3} == expected
    resumed, _ = train(
        tmp_path / 'resumed',
        copy.deepcopy(hooks),
        prepare=lambda runner: None,
        epochs=2,
        resume=True,
        load_from=str(tmp_path / 'whole/epoch_1.pth'),
        **sgd,
    )
    assert counts(resumed) == {step: expected[step] for step in (5, 6, 7, 8)}


def test_loaded_weights_that_have_collapsed_are_called_so(tmp_path):
    trained = toy_runner(tmp_path / 'trained', epochs=1)
    trained.train()
    for block in trained.model.blocks:
        nn.init.zeros_(block.bn2.weight), nn.init.zeros_(block.bn2.bias)
    trained.save_checkpoint(str(tmp_path), 'collapsed.pth')
    runner, messages = train(
        tmp_path / 'finetuned',
        [dict(WATCH, warn_at=dict(collapsed=0.05))],
        epochs=1,
        optim_wrapper=still(),
        load_from=str(tmp_path / 'collapsed.pth'),
        **ZERO_INIT,
    )
    records = scalars(runner)
    assert {r['sparsity/collapsed'] for r in records} == {16}
    assert not any('sparsity/not_grown' in r for r in records)
    assert 'came dead with the loaded weights' in alarms(messages)[0]


@pytest.mark.parametrize(
    'layer', [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), psBN2d(4), psGN(4, 2)], ids=repr
)
def test_a_layer_begins_at_zero_where_nothing_of_it_was_trained(layer):
    assert not begins_at_zero(layer)
    nn.init.zeros_(layer.weight)
    assert begins_at_zero(layer)
    moved = copy.deepcopy(layer)
    with torch.no_grad():
        moved.weight[1] = 1e-9
    assert not begins_at_zero(moved)
    moved = copy.deepcopy(layer)
    with torch.no_grad():
        moved._parameters['bias'][1] += 1e-3
    assert not begins_at_zero(moved)
    if hasattr(layer, 'running_mean'):
        layer.train()(torch.randn(2, 4, 3, 3))
        assert not begins_at_zero(layer)


def test_a_course_that_no_checkpoint_can_hold_is_refused():
    with pytest.raises(ValueError, match=r'the course of bn must be a list of floats, got \[1\]'):
        Growth().restore(dict(bn=[1]))
    with pytest.raises(ValueError, match=r'its mmpsbn_not_grown must be a dict, got \[1\]'):
        Growth().restore([1])


def test_a_layer_that_others_have_changed_is_forgotten():
    growth = Growth()
    growth.restore(dict(a=[0.0, 0.0], b=[0.0, 0.0], c=[0.0]))
    growth.update(dict(a=torch.tensor([0.5, 1e-9]), b=torch.zeros(1)), {})
    found = growth.not_grown(threshold=1e-3)
    assert list(found) == ['a'] and found['a'].tolist() == [False, True]
    assert list(growth.state()) == ['a']
