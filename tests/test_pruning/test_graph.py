"""Which channels go together, which stay whole and why; the model is not touched."""

import pytest
import torch
from mmdet.models import ResNet
from nets import NETS, assert_same, build, conv_bn, forward, snapshot, trace
from torch import nn
from torch.nn import functional as F

from mmpsbn.pruning import trace_channel_graph
from mmpsbn.pruning.graph import by_reason, trace_held_groups


def layers(members):
    return {m.layer for m in members}


def test_chain_groups_by_hand():
    graph = trace(*build('chain'))
    widths = {'features.0': 6, 'features.4': 6, 'features.7': 8, 'classifier.0': 10}
    assert {n: g.channels for n, g in graph.groups.items()} == widths
    assert set(graph.skipped) == {'classifier.2'}
    first, flattened = graph.groups['features.0'], graph.groups['features.7']
    assert layers(first.channelwise) == {'features.1'} and layers(first.readers) == {'features.4'}
    (reader,) = flattened.readers  # channel c is columns 4c .. 4c + 3 behind the flatten
    assert reader.layer == 'classifier.0' and not flattened.channelwise
    assert sorted(zip(reader.index, reader.channel)) == [(i, i // 4) for i in range(32)]
    assert graph.norm_of == {'features.0': ('features.1',), 'features.4': ('features.5',)}


def test_residual_stream_is_one_group():
    groups = trace(*build('residual')).groups
    (stream,) = [g for g in groups.values() if len(g.writers) > 1]
    assert layers(stream.writers) == {'stem', 'blocks.0.conv2', 'blocks.1.conv2'}
    assert layers(stream.channelwise) == {'norm', 'blocks.0.bn2', 'blocks.1.bn2'}
    assert layers(stream.readers) == {'blocks.0.conv1', 'blocks.1.conv1', 'fc'}
    inner = {n: g.channels for n, g in groups.items() if g is not stream}
    assert inner == {'blocks.0.conv1': 12, 'blocks.1.conv1': 12}


def test_concat_places_each_branch_in_its_readers():
    groups = trace(*build('concat')).groups
    left, right = groups['left.0'], groups['right.0']
    places = {m.layer: dict(zip(m.channel, m.index)) for m in (*left.readers, *left.channelwise)}
    assert places == {
        'join': {c: c for c in range(5)},
        'norm': {c: c for c in range(5)},
        'left.1': {c: c for c in range(5)},
        'out': {c: c + 6 for c in range(5)},
    }
    assert {m.layer: dict(zip(m.channel, m.index)) for m in right.readers} == {
        'join': {c: c + 5 for c in range(7)}
    }


def test_a_tensor_concatenated_with_itself_has_two_places_per_channel():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            x = F.relu(self.a(x))
            return self.b(torch.cat([x, x], 1))

    (reader,) = trace_channel_graph(Twice(), torch.zeros(1, 3, 4, 4), forward).groups['a'].readers
    assert sorted(zip(reader.index, reader.channel)) == [(i, i % 4) for i in range(8)]


def test_shared_head_couples_the_levels_that_it_reads():
    graph = trace(*build('fpn'))
    levels, top_down = graph.groups['fpn1'], graph.groups['lateral1']
    assert layers(levels.writers) == {'fpn1', 'fpn2'} and layers(levels.readers) == {'tower'}
    assert len(levels.readers) == 1
    assert layers(top_down.writers) == {'lateral1', 'lateral2'}
    assert layers(top_down.readers) == {'fpn1', 'fpn2'}
    assert layers(graph.groups['tower'].channelwise) == {'tower_norms.0', 'tower_norms.1'}
    assert layers(graph.groups['tower'].readers) == {'cls', 'reg'}
    assert graph.norm_of['tower'] == ('tower_norms.0', 'tower_norms.1')
    assert set(graph.skipped) == {'cls', 'reg'}


@pytest.mark.parametrize('plain, ps', [('chain', 'psbn_chain'), ('residual', 'psbn_residual')])
def test_psbn_model_has_the_graph_of_its_bn_twin(plain, ps):
    assert trace(*build(plain)) == trace(*build(ps))


class OptionA(nn.Module):
    """A CIFAR ResNet's parameter-free shortcut: half the channels of the sum are zeros."""

    def __init__(self):
        super().__init__()
        self.stem, self.down = conv_bn(3, 4), conv_bn(4, 8, stride=2)
        self.inner, self.out = conv_bn(8, 6), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return self.out(self.inner(F.relu(self.down(x) + shortcut)))


def tied():
    a, b, c, d = (nn.Conv2d(i, o, 1) for i, o in ((3, 4), (4, 4), (4, 4), (4, 2)))
    c.weight = b.weight
    return nn.Sequential(a, nn.ReLU(), b, nn.ReLU(), c, nn.ReLU(), d)


class Standardised(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


def between(*middle, width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3), *middle, nn.ReLU(), nn.Conv2d(width, 2, 3))


class ChannelsLast(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1)


def normed_over_channels():
    return nn.Sequential(nn.Conv2d(3, 4, 1), ChannelsLast(), nn.LayerNorm(4), nn.Linear(4, 2))


def weight_normed():
    model = between()
    torch.nn.utils.parametrizations.weight_norm(model[0])
    return model


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.a(x)
        weights = x.flatten(2).transpose(1, 2) @ x.flatten(2)
        return self.b(x + weights.mean())


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.a(x.flatten(2).transpose(1, 2)[:, None])
        return self.b(F.scaled_dot_product_attention(x, x, x))


class OutOfSight(nn.Module):
    """A kernel that fills new memory behind PyTorch's back, as a C++ extension does."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1), nn.Conv2d(5, 2, 1)

    def forward(self, x):
        x = self.a(x)
        out = torch.zeros(x.shape)
        out.numpy()[:] = x.detach().numpy() * 2
        return self.c(self.b(out))


@pytest.mark.parametrize(
    'build_model, name, reason',
    [
        (lambda: between(nn.LayerNorm(6)), '0', None),
        (normed_over_channels, '0', '2: LayerNorm'),
        (lambda: between(Standardised(4, 4, 1)), '0', '1: mean over channels'),
        (lambda: between(nn.Softmax(1)), '0', '1: _softmax over channels'),
        (lambda: between(nn.PixelShuffle(2), nn.Conv2d(1, 4, 1)), '0', '1: no rule for pixel_s'),
        (lambda: between(nn.CircularPad2d(1)), '0', '1: copy with a tensor of fixed size'),
        (lambda: between(nn.Flatten(0, 1), nn.Unflatten(0, (1, 4))), '0', None),
        (weight_normed, '0', 'its weight is computed'),
        (tied, '0', '2.weight: shared with another layer'),
        (tied, '4', '2.weight: shared with another layer'),
        (Attention, 'a', 'a product that is not a layer of its own'),
        (SelfAttention, 'a', 'attention'),
        (OutOfSight, 'a', 'out of sight'),
        (OptionA, 'stem.0', 'padding of the channels'),
        (lambda: between(), '2', 'an output of the model'),
    ],
    ids=lambda v: v if isinstance(v, str) else '',
)
def test_left_whole_with_the_reason(build_model, name, reason):
    graph = trace_channel_graph(build_model(), torch.randn(1, 3, 8, 8), forward)
    assert (name in graph.groups) == (reason is None)
    if reason:
        assert reason in graph.skipped[name]


def test_a_reason_is_said_once_for_all_its_layers():
    skipped = {'a': 'attention', 'b': 'out of sight', 'c': 'attention'}
    assert by_reason(skipped) == 'a, c (attention); b (out of sight)'


def test_option_a_leaves_the_inner_channels_prunable():
    graph = trace_channel_graph(OptionA(), torch.zeros(1, 3, 8, 8), forward)
    assert set(graph.groups) == {'inner.0'}


@pytest.mark.parametrize('name', NETS)
def test_tracing_leaves_the_model_as_it_was(name):
    model, batch = build(name)
    modules = list(model.modules())
    modules[2].training = False
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)
    modes, before = [m.training for m in modules], snapshot(model)
    assert trace(model, batch).groups
    assert list(model.modules()) == modules and [m.training for m in modules] == modes
    assert [p.requires_grad for p in parameters] == [False] + [True] * (len(parameters) - 1)
    assert all(a is b for a, b in zip(model.parameters(), parameters))
    assert_same(snapshot(model), before)


@pytest.mark.parametrize('norm', ['BN', 'psBN'])
def test_frozen_stages_of_mmdets_resnet_are_in_the_graph(norm):
    model = ResNet(18, frozen_stages=1, base_channels=8, stem_channels=8, norm_cfg=dict(type=norm))
    model.train()
    frozen = [p.requires_grad for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    graph = trace_channel_graph(model, torch.zeros(1, 3, 64, 64), forward)
    # the streams are outputs, and the stem is a part of the first one
    assert graph.skipped['conv1'] == 'an output of the model: nobody reads it'
    assert {'layer1.0.conv1', 'layer1.1.conv1', 'layer4.1.conv1'} <= set(graph.groups)
    assert [p.requires_grad for p in model.parameters()] == frozen and not all(frozen)
    assert [m.training for m in model.modules()] == modes


def test_a_model_that_fails_says_why():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(5, 4, 3))
    with pytest.raises(RuntimeError, match='cannot trace Sequential .*RuntimeError') as caught:
        trace_channel_graph(model, torch.zeros(1, 3, 8, 8), forward)
    assert caught.value.__cause__ is not None


# --- what another pass holds -----------------------------------------------------------------


class TwoPasses(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(4, 4, 1) for _ in range(4))
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, x):
        return self.d(F.relu(self.c(F.relu(self.b(F.relu(self.a(x)))))))


def held_by(model, forward_b):
    """Why ``a`` and ``b`` must stay, if ``forward_b`` runs on what ``b`` reads too."""
    x = torch.randn(2, 4, 3, 3)
    groups = trace_channel_graph(model, x, forward).groups
    assert set(groups) == {'a', 'b', 'c'}
    return trace_held_groups(model, groups, lambda: forward_b(F.relu(model.a(x))))


def test_groups_that_one_layer_reads_hold_each_other():
    model = TwoPasses()
    held, called = held_by(model, lambda x: model.d(F.relu(model.b(x))).sum())
    assert held == dict(b='goes with d.weight', c='goes with b.weight')
    assert called == {'a', 'b', 'd'}


def test_each_hold_has_its_reason():
    model = TwoPasses()
    assert held_by(model, model.b)[0] == dict(b='an output of the model: nobody reads it')
    assert held_by(model, lambda x: model.b(x) + x.mean())[0].keys() == {'a', 'b'}
    assert held_by(model, lambda x: model.head(x))[0] == dict(a='goes with head.weight')
    assert held_by(model, lambda x: x.numpy())[0] == dict(a='an operation out of sight of PyTorch')


def test_nothing_is_held_that_the_same_layers_read():
    model = TwoPasses()
    held, called = held_by(model, lambda x: model.d(F.relu(model.c(F.relu(model.b(x))))).sum())
    assert held == {} and 'head' not in called


def test_tracing_a_join_with_no_rows_at_all():
    """What pads a batch that is full already, as DDQ DETR does with its queries."""

    def padded(model, x):
        return model.d(F.relu(model.c(torch.cat([F.relu(model.b(x)), x.new_zeros(0, 4, 3, 3)]))))

    graph = trace_channel_graph(TwoPasses(), torch.randn(2, 4, 3, 3), padded)
    assert 'c' in graph.groups
