"""What each picture of the report holds."""

import math

import numpy as np
import pytest
import torch

pytest.importorskip('matplotlib', reason='the report draws with matplotlib')

from mmpsbn.analysis.report.channels import Channels, channels_of  # noqa: E402
from mmpsbn.analysis.report.pictures import (
    draw_depth,
    draw_l1_norms,
    draw_plane,
    draw_scales,
    draw_universality,
    draw_zero_shares,
)
from mmpsbn.analysis.report.rounds import draw_paths, draw_rounds, paths_of  # noqa: E402
from mmpsbn.analysis.report.snapshot import Settings, Snapshot  # noqa: E402
from mmpsbn.functional.activations import activation_statistics  # noqa: E402
from mmpsbn.pruning.census import LayerChannels  # noqa: E402

SETTINGS = Settings(thresholds=(1e-3, 1e-2), eps=0.0, num_samples=1, score=False)


def of(figure, gid):
    """The one artist of that name."""
    found = [a for axes in figure.axes for a in axes.get_children() if a.get_gid() == gid]
    assert len(found) == 1, f'{len(found)} artists called {gid}'
    return found[0]


def points(figure, gid, axes=0):
    found = [a for a in figure.axes[axes].collections if a.get_gid() == gid]
    assert len(found) == 1
    return np.asarray(found[0].get_offsets()).round(6).tolist()


def snapshot(layers, **kwargs):
    values = dict(
        name='x', kept={}, graph=None, cost=None, input_shape=None, untraced=None, samples=0,
        scores={}, clamped_scores={}, step=None, has_psbn=False,
    )  # fmt: skip
    return Snapshot(layers=layers, **{**values, **kwargs})


def layer(gamma, bias, l1=None, activations=None):
    l1 = None if l1 is None else torch.tensor(l1)
    gamma = None if gamma is None else torch.tensor(gamma)
    return LayerChannels(gamma, torch.tensor(bias), 'conv', l1, activations)


@pytest.fixture
def channels():
    """Layer a: alive, collapsed and dead, dead with a scale; b: without a scale; c: not read."""
    seen = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [1e-6, 0.0, 0.0]])
    seen = activation_statistics(seen, channel_dim=1)
    return channels_of(
        snapshot(
            {
                'a': layer([-0.5, 1e-4, 0.8], [0.1, -0.2, -3.0], [2.0, 0.0, 4.0], seen),
                'b': layer(None, [0.5]),
                'c': layer([1.0, math.nan], [0.0, 0.0], [1.0, 3.0]),
            }
        ),
        SETTINGS,
    )


def test_the_table_of_channels(channels):
    assert channels.layers == ['a', 'b', 'c'] and channels.depth.tolist() == [0, 0, 0, 1, 2, 2]
    np.testing.assert_allclose(channels.gamma, [0.5, 1e-4, 0.8, np.nan, 1, np.nan], rtol=1e-6)
    np.testing.assert_allclose(channels.l1, [1, 0, 2, np.nan, 1, 3])  # torch's lower median
    np.testing.assert_allclose(channels.zero_share, [0.25, 1, 1, *[np.nan] * 3])
    np.testing.assert_allclose(channels.universality, [0.5, 0, 0, *[np.nan] * 3])
    assert channels.collapsed.tolist() == [False, True, False, False, False, False]
    assert channels.dead.tolist() == [False, True, True, False, False, False]


def test_the_plane_and_its_region(channels):
    figure = draw_plane(channels)
    assert points(figure, 'other') == [[0.5, 0.1], [1.0, 0.0]]
    assert points(figure, 'dead') == [[0.8, -3.0]]
    assert points(figure, 'collapsed') == [[0.0001, -0.2]]
    edges = of(figure, 'region').get_paths()[0].vertices
    # Phi(-2.3263) = 1 %; the region ends right of the largest gamma and below the lowest bias
    corners = {tuple(corner) for corner in edges.round(3).tolist()}
    assert {(0.0, 0.0), (1.06, -2.466)} < corners
    assert edges[:, 1].min() < -3
    assert figure.axes[0].get_ylim()[0] < -3
    labels = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert labels == ['non-trainable', 'other (2)', 'dead (1)', 'collapsed (1)']


def test_scales_stand_in_their_layer_above_the_floor(channels):
    figure = draw_scales(channels, SETTINGS.thresholds)
    ((x, y),) = points(figure, 'collapsed')
    assert x == 1 and y == 1e-4  # the middle one of three
    first, other_layer = points(figure, 'other')
    assert 0.6 < first[0] < 1 and first[1] == 0.5 and 2.6 < other_layer[0] < 3.4
    assert points(figure, 'other', axes=1)[0][1] == 0.1
    assert of(figure, 'threshold').get_ydata()[0] == 1e-3
    zero = channels_of(snapshot({'a': layer([0.0], [0.0])}), SETTINGS)
    assert points(draw_scales(zero, SETTINGS.thresholds), 'collapsed') == [[1, 1e-6]]


def counts(figure):
    """State -> histogram, unstacked."""
    legend = figure.axes[0].get_legend()
    names = [text.get_text().split()[0] for text in legend.get_texts()]
    bars = [[patch.get_height() for patch in c] for c in figure.axes[0].containers]
    return dict(zip(names, np.array(bars)))


@pytest.mark.parametrize(
    'draw, other, dead, collapsed',
    [
        (draw_zero_shares, 12, 49, 49),  # of 50 bins: 0.25 | 1 | 1
        (draw_universality, 25, 0, 0),  # 0.5 | 0 | 0
    ],
)
def test_histograms_of_shares(channels, draw, other, dead, collapsed):
    found = counts(draw(channels))
    assert list(found) == ['other', 'dead', 'collapsed']
    for name, place in dict(other=other, dead=dead, collapsed=collapsed).items():
        assert np.flatnonzero(found[name]).tolist() == [place], name
        assert found[name].sum() == 1


def test_l1_norms_peak_at_zero_where_filters_have_collapsed(channels):
    found = counts(draw_l1_norms(channels))
    assert np.flatnonzero(found['collapsed']).tolist() == [0]
    assert found['other'].sum() == 3 and found['dead'].sum() == 1


def test_depth(channels):
    figure = draw_depth(channels)
    heights = {
        bars.get_label(): [round(bar.get_height(), 3) for bar in bars]
        for bars in figure.axes[0].containers
    }
    assert heights == {
        'mostly zero': [66.667, 0, 0], 'dead': [66.667, 0, 0], 'collapsed': [33.333, 0, 0]
    }  # fmt: skip


def test_depth_of_many_layers():
    layers = {str(k): layer([1.0, 0.0] if k == 7 else [1.0, 1.0], [0.0, 0.0]) for k in range(121)}
    figure = draw_depth(channels_of(snapshot(layers), SETTINGS))
    (stairs,) = (p for p in figure.axes[0].patches if p.get_gid() == 'collapsed')
    values, edges, _ = stairs.get_data()
    assert np.flatnonzero(values).tolist() == [7] and values[7] == 50
    assert edges[7:9].tolist() == [7.5, 8.5]  # the eighth layer
    layers['7'] = layers['8']
    assert draw_depth(channels_of(snapshot(layers), SETTINGS)) is None


def test_nothing_to_draw_is_no_picture():
    bare = channels_of(snapshot({'b': layer(None, [0.5])}), SETTINGS)
    for draw in (draw_plane, draw_l1_norms, draw_zero_shares, draw_universality, draw_depth):
        assert draw(bare) is None
    assert draw_scales(bare, SETTINGS.thresholds) is None
    with pytest.raises(ValueError, match='no layer has channels'):
        channels_of(snapshot({}), SETTINGS)


def test_many_channels_are_pixels_and_few_are_shapes():
    for count, pixels in ((3000, False), (3001, True)):
        many = Channels(
            ['a'], np.zeros(count, int), *np.ones((5, count)), *np.zeros((2, count), bool)
        )
        assert of(draw_plane(many), 'other').get_rasterized() is pixels


def test_paths_follow_channels_of_the_unpruned_model():
    first = snapshot({'a': layer([0.5, -0.4, 0.3], [0.0, 0.1, 0.2]), 'b': layer(None, [0.0])})
    last = snapshot({'a': layer([1e-5, 0.2], [0.0, 0.3])}, kept={'a': (0, 2)})
    paths = paths_of([first, last])
    assert list(paths) == [('a', 0), ('a', 1), ('a', 2)]
    nan = math.nan
    for channel, path in enumerate(
        [[[0.5, 0], [1e-5, 0]], [[0.4, 0.1], [nan, nan]], [[0.3, 0.2], [0.2, 0.3]]]
    ):
        np.testing.assert_allclose(paths['a', channel], path, rtol=1e-6)
    figure = draw_paths([first, last], SETTINGS)
    gone = [line for line in figure.axes[0].lines if line.get_gid() == 'collapsed or pruned']
    assert len(gone) == 2  # channel 0 collapsed, channel 1 was pruned
    np.testing.assert_allclose(gone[0].get_xdata(), [0.5, 1e-5], rtol=1e-6)
    np.testing.assert_allclose(of(figure, 'left alive').get_ydata(), [0.2, 0.3], rtol=1e-6)
    assert draw_paths([snapshot({'b': layer(None, [0.0])})] * 2, SETTINGS) is None


def test_a_channel_that_is_not_finite_is_no_path_and_has_not_collapsed():
    first = snapshot({'a': layer([0.5, 0.5, 0.5, 1.0], [0.0, 0.0, 0.0, 0.0])})
    last = snapshot({'a': layer([np.inf, np.nan, 0.4, 0.9], [0.0, 0.0, np.inf, 0.1])})
    figure = draw_paths([first, last], SETTINGS)
    assert [line.get_gid() for line in figure.axes[0].lines if str(line.get_gid())[0] != 'N'] == [
        'left alive'
    ]
    broken = snapshot({'a': layer([np.nan], [0.0])})
    assert draw_paths([broken, broken], SETTINGS) is None


def test_rounds():
    base = dict(scaled_channels=10, observed_channels=20, macs=1000)
    totals = [
        dict(base, **{'collapsed_0.001': 1, 'dead': None, 'mostly_zero': None, 'macs_at_stake': 0}),
        dict(base, **{'collapsed_0.001': 4, 'dead': 5, 'mostly_zero': 6, 'macs_at_stake': 300}),
    ]
    figure = draw_rounds(['a', 'b'], totals, [None, 91.0], 'top1')
    shares = {
        key: of(figure, key).get_ydata()
        for key in ('collapsed_0.001', 'dead', 'mostly_zero', 'macs_at_stake', 'score')
    }
    np.testing.assert_array_equal(shares['collapsed_0.001'], [10, 40])
    np.testing.assert_array_equal(shares['dead'], [np.nan, 25])
    np.testing.assert_array_equal(shares['mostly_zero'], [np.nan, 30])
    np.testing.assert_array_equal(shares['macs_at_stake'], [0, 30])
    np.testing.assert_array_equal(shares['score'], [np.nan, 91])
    assert len(draw_rounds(['a', 'b'], totals, [None, None], None).axes) == 1
