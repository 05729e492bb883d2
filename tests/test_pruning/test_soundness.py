"""Nets in which channels go where a tracer might lose sight of them."""

import numpy as np
import pytest
import torch
from nets import assert_same, snapshot
from torch import nn
from torch.nn import functional as F

from mmpsbn.pruning import apply_plan, trace_channel_graph
from mmpsbn.pruning.forward import call_with
from mmpsbn.pruning.lossless import foldable_channels
from mmpsbn.pruning.plan import plan_from_keep_masks
from mmpsbn.pruning.prune import prune_channels
from mmpsbn.pruning.verification import masked_outputs, output_errors, probe_outputs

IMAGES = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two convolutions and a function of what is between them."""

    def __init__(self, function, **modules):
        super().__init__()
        self.writer, self.reader = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)
        for name, module in modules.items():
            setattr(self, name, module)
        self.function = function
        self.double()

    def forward(self, x):
        return self.function(self, F.relu(self.writer(x)))


def parameter(*shape):
    return nn.Parameter(torch.randn(*shape, dtype=torch.float64))


def mask_by_channels(net, x):
    y = torch.ones(x.shape, dtype=x.dtype)
    y[x > 0.2] = 0.0
    return net.reader(x), y.mean((1, 2, 3))


def picked_by_channels(net, x):
    return net.reader(x), net.table[x.flatten(2).argmax(2)].sum(1)


def selected_by_channels(net, x):
    return net.reader(x), net.table.index_select(0, x.mean((0, 2, 3)).gt(0.2).long()).sum(0)


def unsqueezed_in_place(net, x):
    return net.reader(x), x.mean((2, 3)).unsqueeze_(1).sum(2)


def through_numpy(net, x):
    return net.reader(x), torch.from_numpy(np.exp(x.numpy())).sum(1)


def through_a_list(net, x):
    return net.reader(x), torch.tensor(x.exp().mean((0, 2, 3)).tolist()).sum()


def added_to_a_product(net, x):
    return net.reader(x), torch.addmm(x.mean((2, 3)), net.left, net.right).sum(1)


def groups_without_scales(net, x):
    return net.reader(F.relu(net.norm(x)))


def groups_by_a_number(net, x):
    return net.reader(F.relu(F.group_norm(x, 3, net.scale, net.scale)))


def depthwise_by_a_number(net, x):
    return net.reader(F.relu(F.conv2d(x, net.kernel, padding=1, groups=6)))


class ChannelsLast(nn.Conv2d):
    def forward(self, x):
        return super().forward(x.permute(0, 3, 1, 2))


def read_in_another_order(net, x):
    return net.reader(x.permute(0, 2, 3, 1))


LEAKS = {
    mask_by_channels: {},
    picked_by_channels: dict(table=lambda: parameter(64, 5)),
    selected_by_channels: dict(table=lambda: parameter(2, 5)),
    unsqueezed_in_place: {},
    through_numpy: {},
    through_a_list: {},
    added_to_a_product: dict(left=lambda: parameter(2, 3), right=lambda: parameter(3, 6)),
    groups_without_scales: dict(norm=lambda: nn.GroupNorm(3, 6, affine=False)),
    groups_by_a_number: dict(scale=lambda: parameter(6)),
    depthwise_by_a_number: dict(kernel=lambda: parameter(6, 1, 3, 3)),
    read_in_another_order: dict(reader=lambda: ChannelsLast(6, 4, 1)),
}


@pytest.mark.parametrize('function', LEAKS, ids=lambda function: function.__name__)
def test_channels_that_go_out_of_sight_are_left_whole(function):
    net = Net(function, **{name: make() for name, make in LEAKS[function].items()})
    graph = trace_channel_graph(net, IMAGES, call_with)
    assert not graph.groups and 'writer' in graph.skipped


def test_a_kernel_out_of_sight_fills_memory_made_before_what_it_reads():
    def fill(net, x):
        memory = torch.empty(2, 8, 8, dtype=x.dtype)
        target = memory.data_ptr()
        x = F.relu(net.between(x))
        assert target  # a kernel would now write there what it reads of x
        return net.reader(x), memory * 1

    graph = trace_channel_graph(Net(fill, between=nn.Conv2d(6, 6, 1)), IMAGES, call_with)
    assert 'out of sight' in graph.skipped['between']


def test_a_scripted_child_is_left_whole():
    tail = torch.jit.script(nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1)))
    net = Net(lambda net, x: net.tail(F.relu(net.reader(x))), tail=tail)
    net.reader = nn.Conv2d(6, 6, 1).double()
    graph = trace_channel_graph(net, IMAGES, call_with)
    assert list(graph.groups) == ['writer'] and 'TorchScript' in graph.skipped['reader']


def test_hooks_go_where_one_cannot_be_registered():
    class Refuses(nn.Conv2d):
        def register_forward_hook(self, *args, **kwargs):
            raise RuntimeError('no hooks here')

    net = Net(lambda net, x: net.reader(x), reader=Refuses(6, 4, 1))
    with pytest.raises(RuntimeError, match='no hooks here'):
        trace_channel_graph(net, IMAGES, call_with)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


@pytest.mark.parametrize('attributes', [dict(out_channels=6, groups=1), dict(out_features=6)])
def test_a_block_with_sizes_of_its_own_is_no_convolution(attributes):
    net = Net(lambda net, x: net.reader(x * net.scale), scale=parameter(6, 1, 1))
    vars(net).update(attributes)
    graph = trace_channel_graph(net, IMAGES, call_with)
    masks = {'writer': torch.tensor([False, True] * 3)}
    expected = masked_outputs(net, graph.groups, masks, IMAGES, call_with)
    apply_plan(net, plan_from_keep_masks(net, graph.groups, masks))
    assert output_errors(expected, probe_outputs(net, IMAGES, call_with))[1] < 1e-12


def test_two_weights_of_one_module_are_both_found():
    def branches(net, x):
        x = net.reader(x)
        return net.first(F.relu(F.conv2d(x, net.a))) + net.second(F.relu(F.conv2d(x, net.b)))

    layers = dict(first=nn.Conv2d(6, 2, 1), second=nn.Conv2d(8, 2, 1))
    net = Net(branches, a=parameter(6, 4, 1, 1), b=parameter(8, 4, 1, 1), **layers)
    graph = trace_channel_graph(net, IMAGES, call_with)
    assert graph.groups[''].channels == 6 + 8


# --- constants ----------------------------------------------------------------------------


def folded(function, **modules):
    net = Net(function, **modules)
    graph = trace_channel_graph(net, IMAGES, call_with)
    group = graph.groups['writer']
    return bool(foldable_channels(net, group, graph.norm_of, fold_padding=False).all())


def unbiased():
    return dict(reader=nn.Conv2d(6, 4, 1, bias=False), norm=nn.BatchNorm2d(4))


def test_a_norm_takes_a_constant_only_if_it_alone_reads_and_reads_nothing_else():
    assert folded(lambda net, x: net.norm(net.reader(x)), **unbiased())
    assert not folded(lambda net, x: (y := net.reader(x)) + net.norm(y), **unbiased())
    assert not folded(lambda net, x: (y := net.reader(x), net.norm(y)), **unbiased())
    assert not folded(lambda net, x: net.norm(net.reader(x).mul_(2)), **unbiased())
    other = nn.Conv2d(6, 4, 1, bias=False)
    assert not folded(
        lambda net, x: net.norm(net.reader(x)) + net.norm(net.other(x)), other=other, **unbiased()
    )


def test_a_shared_bias_takes_no_constant():
    net_of = dict(reader=nn.Conv2d(6, 4, 1), other=nn.Conv2d(6, 4, 1))
    assert folded(lambda net, x: net.reader(x) + net.other(x), **net_of)
    net_of['other'].bias = net_of['reader'].bias
    assert not folded(lambda net, x: net.reader(x) + net.other(x), **net_of)


@pytest.mark.parametrize(
    'kernel_size, padding, padding_mode, exact',
    [
        (3, 'valid', 'zeros', True),
        (1, 'same', 'zeros', True),
        (3, 'same', 'zeros', False),
        (1, 1, 'zeros', False),
        (3, 1, 'reflect', True),
    ],
)
def test_zeros_around_the_image_are_no_constant(kernel_size, padding, padding_mode, exact):
    reader = nn.Conv2d(6, 4, kernel_size, padding=padding, padding_mode=padding_mode)
    net = Net(lambda net, x: net.reader(x * 0 + 0.5), reader=reader)
    graph = trace_channel_graph(net, IMAGES, call_with)
    foldable = foldable_channels(net, graph.groups['writer'], graph.norm_of, fold_padding=False)
    assert bool(foldable.all()) == exact


# --- nothing is half done ----------------------------------------------------------------


def test_constants_are_unfolded_if_the_surgery_fails():
    net = Net(lambda net, x: net.reader(x))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    optimizer.state[net.writer.weight] = dict(rows=torch.ones(6, 1))
    graph = trace_channel_graph(net, IMAGES, call_with)
    before = snapshot(net, optimizer)
    with pytest.raises(ValueError, match='SGD keeps rows of shape .6, 1. for writer.weight'):
        prune_channels(
            net,
            graph.groups,
            {'writer': torch.tensor([False] + [True] * 5)},
            batch=IMAGES,
            forward_fn=call_with,
            optimizers=[optimizer],
            tolerance=1.0,
            constants=[dict(reader=torch.ones(6))],
            norm_of=graph.norm_of,
        )
    assert_same(before, snapshot(net, optimizer))
