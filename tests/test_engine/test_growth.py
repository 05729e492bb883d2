"""What begins with gamma = 0 and grows has not collapsed."""

import copy
import json

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS
from runs import demp, resume_from, scalars, train
from test_alarms import alarms
from test_rounds_hook import restarts
from torch import nn
from toy import ToyNet, kill_channels, toy_runner

from mmpsbn.engine.sparsity.growth import Growth
from mmpsbn.layers import psBN2d, psGN
from mmpsbn.pruning.sparsity import begins_at_zero

WATCH = dict(type='SparsityHook', interval=1, measures=['collapsed', 'flops_sparsity'])


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


def grow(work_dir, *prepare, course=None, hooks=(WATCH,), epochs=1, **kwargs):
    """A run of ZeroInit whose gammas change by ``course`` alone, and its messages."""
    still = dict(optimizer=dict(type='SGD', lr=1e-12))
    kwargs = dict(model=dict(type='ZeroInit'), optim_wrapper=still, epochs=epochs) | kwargs
    course = dict(type='SetGamma', course=course or {})
    return train(work_dir, [course, *copy.deepcopy(hooks)], *prepare, **kwargs)


def counts(runner):
    return {r['step']: (r['sparsity/collapsed'], r['sparsity/not_grown']) for r in scalars(runner)}


def test_what_never_lived_has_not_collapsed(tmp_path):
    hook = dict(WATCH, warn_at=dict(collapsed=0.01), gamma_threshold=[1e-3, 0.5])
    runner, messages = grow(tmp_path, hooks=[hook])
    assert set(counts(runner).values()) == {(0, 16)} and not alarms(messages)
    last = scalars(runner)[-1]
    assert last['sparsity/flops_sparsity'] == last['sparsity/collapsed_below_0.5_fraction'] == 0
    line = next(m for m in messages if m.startswith('sparsity:'))
    assert '0 of 48 filters collapsed (|gamma| < 0.001), 0.00%; ' in line
    assert '; 16 not grown yet (their gamma began at 0)' in line


def test_what_has_grown_and_fallen_has_collapsed(tmp_path):
    course = {2: {0: 0.1, 1: -0.1, 2: 9e-3}, 3: {0: 1e-4, 2: 0.0}}
    runner, _ = grow(tmp_path, course=course)
    assert counts(runner) == {1: (0, 16), 2: (0, 13), 3: (1, 14), 4: (1, 14)}


def test_in_training_they_grow(tmp_path):
    runner, _ = grow(tmp_path, epochs=4, optim_wrapper=None)
    course = list(counts(runner).values())
    assert course[0] == (0, 16) and course[-1][1] <= 2
    # also where a gamma of 0.002, say, passes through 0
    assert all(collapsed == 0 for collapsed, _ in course)


def test_a_resumed_run_remembers_what_had_grown(tmp_path):
    run = dict(course={3: {0: 0.1}, 6: {0: 1e-4}}, hooks=[dict(WATCH, interval=3)], epochs=2)
    whole, _ = grow(tmp_path / 'whole', **run)
    resumed, _ = grow(tmp_path / 'resumed', **run, **resume_from(tmp_path / 'whole/epoch_1.pth'))
    assert counts(whole) == {3: (0, 15), 4: (0, 15), 6: (1, 15), 8: (1, 15)}
    assert counts(resumed) == {6: (1, 15), 8: (1, 15)}


@pytest.mark.parametrize('hooks', [(), [dict(WATCH, gamma_threshold=1e-2)]])
def test_rounds_count_as_the_sparsity_hook_does(tmp_path, hooks):
    """Channel 0 has grown in the first round and collapses in the second; alone the hook looks at
    the end of each epoch."""
    kwargs = dict(
        course={4: {0: 0.1}, 12: {0: 1e-4}},
        hooks=[dict(type='RoundsHook'), *hooks],
        epochs=4,
        param_scheduler=restarts([2, 2]),
    )

    def found(folder):
        rows = json.loads((tmp_path / folder / 'rounds.json').read_text())
        return [(row['collapsed'], row['not_grown'], row['flops_sparsity']) for row in rows]

    grow(tmp_path / 'whole', **kwargs)
    first, (collapsed, not_grown, saved) = found('whole')
    assert first == (0, 15, 0) and (collapsed, not_grown) == (1, 15) and saved > 0
    (tmp_path / 'parts').mkdir()
    (tmp_path / 'parts/rounds.json').write_text((tmp_path / 'whole/rounds.json').read_text())
    grow(tmp_path / 'parts', **kwargs, **resume_from(tmp_path / 'whole/epoch_3.pth'))
    assert found('parts') == found('whole')


def test_rounds_of_iterations_see_what_grows_and_falls_within_one(tmp_path):
    course = {3: {0: 0.1}, 6: {0: 1e-4}}  # an epoch would have ended in between
    kwargs = dict(iters=16, param_scheduler=restarts([8, 8], by_epoch=False))
    grow(tmp_path, course=course, hooks=[dict(type='RoundsHook')], **kwargs)
    rows = json.loads((tmp_path / 'rounds.json').read_text())
    assert [(row['collapsed'], row['not_grown']) for row in rows] == [(1, 15), (1, 15)]


def test_it_follows_channels_through_pruning_and_a_resume(tmp_path):
    def prepare(runner):
        """Channels 0 and 3 of the stream are dead in all their writers."""
        for norm in (runner.model.norm, *(block.bn2 for block in runner.model.blocks)):
            norm.bias.requires_grad_(False)
        kill_channels(runner.model.norm, [0, 3])

    run = dict(  # of the stream's 8 channels, then of 6
        course={1: {7: 0.1, 1: 0.1}, 4: {5: 1e-4}, 6: {5: 0.0}},
        hooks=[demp(interval=3), WATCH],
        epochs=2,
    )
    whole, _ = grow(tmp_path / 'whole', prepare, **run)
    assert whole.model.stem.out_channels == 6
    # channel 7 grew, is number 5 from iteration 3 on, and collapses then; so is 1, number 0
    expected = {4: (1, 10), 5: (1, 10), 6: (1, 10), 7: (1, 10), 8: (1, 10)}
    assert {step: found for step, found in counts(whole).items() if step > 3} == expected
    resumed, _ = grow(tmp_path / 'resumed', **run, **resume_from(tmp_path / 'whole/epoch_1.pth'))
    assert counts(resumed) == {step: expected[step] for step in (5, 6, 7, 8)}


def test_loaded_weights_that_have_collapsed_are_called_so(tmp_path):
    trained = toy_runner(tmp_path / 'trained', epochs=1)
    trained.train()
    for block in trained.model.blocks:
        nn.init.zeros_(block.bn2.weight), nn.init.zeros_(block.bn2.bias)
    trained.save_checkpoint(str(tmp_path), 'collapsed.pth')
    hook = dict(WATCH, warn_at=dict(collapsed=0.05))
    weights = str(tmp_path / 'collapsed.pth')
    runner, messages = grow(tmp_path / 'finetuned', hooks=[hook], load_from=weights)
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
    for name, by in (('weight', 1e-9), ('bias', 1e-3)):
        moved = copy.deepcopy(layer)
        moved.get_parameter(name).data[1] += by
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
