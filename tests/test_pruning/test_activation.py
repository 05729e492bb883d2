"""ActivationWindow: what each reader saw of each channel."""

import json
import math

import pytest
import torch
from nets import build, flat, forward, trace
from ranks import run_in_threads
from torch import nn

from mmpsbn.pruning.activation import ActivationWindow
from mmpsbn.pruning.cost import count_positions
from mmpsbn.pruning.graph import ChannelGroup, Member


def watch(model, groups, in_training_only=False):
    return ActivationWindow(model, groups, in_training_only=in_training_only)


def group(name, channels, *readers):
    """A group read whole by layers, or by (layer, index, channel)."""
    every = tuple(range(channels))
    places = [r if isinstance(r, tuple) else (r, every, every) for r in readers]
    members = tuple(Member(*place, (('weight', 1),), max(place[1]) + 1) for place in places)
    return {name: ChannelGroup(name, channels, (), (), members)}


def maps(*channels):
    """A (1, C, 1, n) input from one list per channel."""
    return torch.tensor(channels, dtype=torch.float32)[None, :, None, :]


@pytest.fixture
def conv():
    return nn.Sequential(nn.Conv2d(3, 2, 1))


def test_maxima_by_hand_over_several_passes(conv):
    window = watch(conv, group('g', 3, '0'))
    conv(maps([0, 1, -2], [0, 0, 0], [0.5, 0, 0]))
    conv(maps([0, 1, 1], [0, 0, 0], [0, -3, 0]))
    assert window.scores()['g'].tolist() == [2, 0, 3]
    assert window.scores(positive=True)['g'].tolist() == [1, 0, 0.5]
    window.close()
    conv(maps([9, 9, 9], [9, 9, 9], [9, 9, 9]))
    assert window.scores()['g'].tolist() == [2, 0, 3]
    assert not conv[0]._forward_pre_hooks


def test_unbatched_inputs_and_empty_batches_are_read_along_the_right_dimension(conv):
    window = watch(conv, group('g', 3, '0'))
    conv(maps([1, 2], [0, 0], [3, 4])[0])
    conv(torch.zeros(0, 3, 5, 5))
    assert window.scores()['g'].tolist() == [2, 0, 4] and window.samples == {'0': 1}
    linear = nn.Sequential(nn.Linear(3, 2))
    window = watch(linear, group('g', 3, '0'))
    for shape in ((3,), (1, 3), (4, 2, 3), (0, 3)):
        linear(torch.tensor([0.0, -1.0, 2.0]).expand(shape) * (len(shape)))
    assert window.scores()['g'].tolist() == [0, 3, 6] and window.samples == {'0': 1 + 1 + 4}


def test_the_max_over_several_readers_and_places_counts():
    model = nn.ModuleDict(dict(a=nn.Conv2d(2, 1, 1), b=nn.Linear(6, 1)))
    # the second reader holds channel 0 in columns 4 and 5 and channel 1 in column 2
    window = watch(model, group('g', 2, 'a', ('b', (4, 5, 2), (0, 0, 1))))
    model['a'](maps([1], [0]))
    model['b'](torch.tensor([[9.0, 9, -7, 9, 0, 3]]))
    assert window.scores()['g'].tolist() == [3, 7]


@pytest.mark.parametrize('value', [math.nan, math.inf])
@pytest.mark.parametrize('when', [0, 1])
def test_nan_and_inf_are_shown_and_never_read_as_dead(conv, value, when):
    window = watch(conv, group('g', 3, '0'))
    inputs = [maps([1, 2], [0, 0], [0, 0]), maps([1, 2], [0, value], [0, 0])]
    conv(inputs[when]), conv(inputs[1 - when])
    score = window.scores()['g']
    assert score[0] == 2 and score[2] == 0
    assert score[1] == value or (math.isnan(value) and score[1].isnan())
    assert window.scores(positive=True)['g'][1].equal(score[1]) or math.isnan(value)
    assert not window.scores(positive=True)['g'][1] <= 0


def test_in_training_only_goes_by_the_models_mode(conv):
    window = watch(conv, group('g', 3, '0'), in_training_only=True)
    conv.eval()(maps([7], [7], [7]))
    count_positions(conv.train(), maps([7], [7], [7]), forward)  # a probe in between, in eval mode
    conv.train()(maps([1], [2], [0]))
    conv[0].eval()
    conv(maps([0], [0], [3]))  # a frozen layer is in eval mode while the model trains
    assert window.scores()['g'].tolist() == [1, 2, 3]
    everything = watch(conv, group('g', 3, '0'))
    conv.eval()(maps([7], [7], [7]))
    assert everything.scores()['g'].tolist() == [7, 7, 7]


def test_a_reader_that_saw_nothing_or_too_little_tells_nothing(conv):
    window = watch(conv, group('g', 3, '0'))
    conv(torch.zeros(0, 3, 5, 5))
    assert window.scores()['g'].tolist() == [math.inf] * 3 and window.ranges == {}
    assert window.scores(positive=True)['g'].tolist() == [math.inf] * 3
    assert window.short_of(1) == {'0': 0}
    conv(maps([1], [0], [0]).expand(2, 3, 1, 1))
    assert window.scores(2)['g'].tolist() == [1, 0, 0] and window.short_of(2) == {}
    assert window.scores(3)['g'].tolist() == [math.inf] * 3 and window.short_of(3) == {'0': 2}


def joined(windows):
    """Join windows as ranks do."""
    run_in_threads(lambda rank, all_reduce: windows[rank].join(all_reduce), len(windows))


def test_joined_windows_are_that_of_all_ranks_however_often_they_are_joined():
    torch.manual_seed(0)
    models = [nn.ModuleList([nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)]) for _ in range(2)]
    windows = [watch(model, group('a', 3, '0') | group('b', 3, '1')) for model in models]
    together = nn.ModuleList([nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)])
    whole = watch(together, group('a', 3, '0') | group('b', 3, '1'))
    for step in range(3):
        for rank, model in enumerate(models):
            # on the second rank nothing comes at first; no second layer ever sees anything
            x = torch.randn(0 if rank and step < 2 else rank + 1, 3, 4, 4) - 1
            model[0](x), together[0](x)
        joined(windows)
    for window in windows:
        assert window.samples == whole.samples == {'0': 3 + 2}
        assert window.state() == whole.state()
        assert window.scores()['b'].isinf().all()
    models[1][0](torch.full((1, 3, 1, 1), math.nan))
    joined(windows)
    assert all(window.scores()['a'].isinf().all() for window in windows)


def test_a_resumed_window_counts_what_ranks_had_joined_once(conv):
    def of_two_ranks(tensor, op):  # that see the same
        return 2 * tensor if op == 'sum' else tensor

    window = watch(conv, group('g', 3, '0'))
    conv(maps([1], [0], [4]))
    window.join(of_two_ranks)
    state = window.state()
    window.close()
    resumed = watch(conv, group('g', 3, '0'))
    resumed.restore(state)
    resumed.join(of_two_ranks)
    assert resumed.samples == {'0': 2}
    conv(maps([1], [0], [4]))
    resumed.join(of_two_ranks)
    assert resumed.samples == {'0': 4}


def test_state_survives_json_and_the_window_goes_on(conv):
    window = watch(conv, group('g', 3, '0'))
    conv(maps([1 / 3], [0], [4]))
    state = json.loads(json.dumps(window.state()))
    window.close()
    resumed = watch(conv, group('g', 3, '0'))
    resumed.restore(state)
    assert resumed.samples == {'0': 1}
    assert torch.equal(resumed.scores()['g'], window.scores()['g'])
    conv(maps([0], [2], [3]))
    assert torch.equal(resumed.scores()['g'], torch.tensor([1 / 3, 2, 4]))
    fresh = watch(conv, group('g', 3, '0'))
    fresh.restore({})
    assert fresh.state() == {}


@pytest.mark.parametrize('name', ['chain', 'residual', 'concat', 'fpn'])
def test_scores_are_what_the_readers_of_a_real_net_saw(name):
    model, batch = build(name)
    groups = trace(model, batch).groups
    seen = {}
    for reader in {m.layer for g in groups.values() for m in g.readers}:
        model.get_submodule(reader).register_forward_pre_hook(
            lambda module, args, reader=reader: seen.setdefault(reader, []).append(args[0].detach())
        )
    before = model(batch)
    window = watch(model, groups)
    assert all(map(torch.equal, flat(model(batch)), flat(before)))
    assert not any(t.requires_grad for pair in window.ranges.values() for t in pair)
    for key, score in window.scores().items():
        for c in range(groups[key].channels):
            largest = max(
                float(x.select(1, i).abs().max())
                for m in groups[key].readers
                for i, channel in zip(m.index, m.channel)
                if channel == c
                for x in seen[m.layer]
            )
            assert float(score[c]) == pytest.approx(largest, rel=1e-6)
        assert score.dtype == batch.dtype
