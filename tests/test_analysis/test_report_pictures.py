"""What each picture of the report holds."""

import math

import numpy as np
import pytest
import torch
from reports import layer, snapshot

from mmpsbn.analysis.report.numbers import channel_table
from mmpsbn.analysis.report.pictures import (
    draw_depth,
    draw_l1_norms,
    draw_paths,
    draw_plane,
    draw_scales,
    draw_universality,
    draw_zero_shares,
    paths_of,
)
from mmpsbn.functional.activations import activation_statistics


def of(figure, gid):
    """The one artist of that name."""
    (found,) = (a for axes in figure.axes for a in axes.get_children() if a.get_gid() == gid)
    return found


def points(figure, gid, axes=0):
    (found,) = (a for a in figure.axes[axes].collections if a.get_gid() == gid)
    return np.asarray(found.get_offsets()).round(6).tolist()


@pytest.fixture
def channels():
    """Layer a: alive, collapsed and dead, dead with a scale; b: without a scale; c: not read."""
    seen = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [1e-6, 0.0, 0.0]])
    seen = activation_statistics(seen, channel_dim=1)
    return channel_table(
        snapshot(
            {
                'a': layer([-0.5, 1e-4, 0.8], [0.1, -0.2, -3.0], [2.0, 0.0, 4.0], seen),
                'b': layer(None, [0.5]),
                'c': layer([1.0, math.nan], [0.0, 0.0], [1.0, 3.0]),
            }
        )
    )


def test_the_table_of_channels(channels):
    assert channels.depth.tolist() == [0, 0, 0, 1, 2, 2]
    np.testing.assert_allclose(channels.gamma, [0.5, 1e-4, 0.8, np.nan, 1, np.nan], rtol=1e-6)
    np.testing.assert_allclose(
        channels.relative_l1, [1, 0, 2, np.nan, 1, 3]
    )  # torch's lower median
    np.testing.assert_allclose(channels.zero_share, [0.25, 1, 1, *[np.nan] * 3])
    np.testing.assert_allclose(channels.universality, [0.5, 0, 0, *[np.nan] * 3])
    np.testing.assert_array_equal(channels.collapsed, [0, 1, 0, np.nan, 0, 0])
    np.testing.assert_array_equal(channels.dead, [0, 1, 1, *[np.nan] * 3])


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
    assert labels == ['non-trainable', 'other (2)', 'dead, not collapsed (1)', 'collapsed (1)']


def test_scales_stand_in_their_layer_above_the_floor(channels):
    figure = draw_scales(channels, 1e-3)
    ((x, y),) = points(figure, 'collapsed')
    assert x == 1 and y == 1e-4  # the middle one of three
    first, other_layer = points(figure, 'other')
    assert 0.6 < first[0] < 1 and first[1] == 0.5 and 2.6 < other_layer[0] < 3.4
    assert points(figure, 'other', axes=1)[0][1] == 0.1
    assert of(figure, 'threshold').get_ydata()[0] == 1e-3
    zero = channel_table(snapshot({'a': layer([0.0], [0.0])}))
    assert points(draw_scales(zero, 1e-3), 'collapsed') == [[1, 1e-6]]


@pytest.mark.parametrize(
    'draw, other, dead, collapsed',
    [
        (draw_zero_shares, [12], [49], [49]),  # of 50 bins: 0.25 | 1 | 1
        (draw_universality, [25], [0], [0]),  # 0.5 | 0 | 0
        (draw_l1_norms, [19, 57], [38], [0]),  # of 60 up to 1.05 x 2.975: 1, 1, 3 | 2 | 0
    ],
)
def test_histograms(channels, draw, other, dead, collapsed):
    (axes,) = draw(channels).axes
    names = [text.get_text().split()[0].rstrip(',') for text in axes.get_legend().get_texts()]
    bars = [np.array([patch.get_height() for patch in c]) for c in axes.containers]
    found = {name: np.flatnonzero(heights).tolist() for name, heights in zip(names, bars)}
    assert found == dict(other=other, dead=dead, collapsed=collapsed)
    assert sum(heights.sum() for heights in bars) == (5 if draw is draw_l1_norms else 3)


def test_depth(channels):
    heights = {
        bars.get_label(): [round(bar.get_height(), 3) for bar in bars]
        for bars in draw_depth(channels).axes[0].containers
    }
    assert heights == {
        'mostly zero': [66.667, 0, 0], 'dead': [66.667, 0, 0], 'collapsed': [33.333, 0, 0]
    }  # fmt: skip
    assert draw_depth(channel_table(snapshot({'a': layer([1.0], [0.0])}))) is None


def test_many_channels_are_pixels_and_few_are_shapes():
    for count, pixels in ((3000, False), (3001, True)):
        many = channel_table(snapshot({'a': layer([1.0] * count, [1.0] * count)}))
        assert of(draw_plane(many), 'other').get_rasterized() is pixels


def paths_through(*snapshots):
    return paths_of(snapshots, list(map(channel_table, snapshots)))


def test_paths_follow_channel_table_the_unpruned_model():
    first = snapshot({'a': layer([0.5, -0.4, 0.3], [0.0, 0.1, 0.2]), 'b': layer(None, [0.0])})
    last = snapshot({'a': layer([1e-5, 0.2], [0.0, 0.3])}, kept={'a': (0, 2)})
    points, lost = paths_through(first, last)
    nan = math.nan
    expected = [[[0.5, 0], [1e-5, 0]], [[0.4, 0.1], [nan, nan]], [[0.3, 0.2], [0.2, 0.3]]]
    np.testing.assert_allclose(points, expected, rtol=1e-6)
    assert lost.tolist() == [True, True, False]  # collapsed, pruned, alive
    figure = draw_paths(points, lost)
    gone = [line for line in figure.axes[0].lines if line.get_gid() == 'collapsed or pruned']
    assert len(gone) == 2
    np.testing.assert_allclose(gone[0].get_xdata(), [0.5, 1e-5], rtol=1e-6)
    np.testing.assert_allclose(of(figure, 'left alive').get_ydata(), [0.2, 0.3], rtol=1e-6)
    bare = snapshot({'b': layer(None, [0.0])})
    assert draw_paths(*paths_through(bare, bare)) is None


def test_a_channel_that_is_not_finite_is_no_path():
    first = snapshot({'a': layer([0.5, 0.5, 0.5, 1.0], [0.0, 0.0, 0.0, 0.0])})
    last = snapshot({'a': layer([np.inf, np.nan, 0.4, 0.9], [0.0, 0.0, np.inf, 0.1])})
    points, lost = paths_through(first, last)
    np.testing.assert_allclose(points, [[[1, 0], [0.9, 0.1]]], rtol=1e-6)
    assert lost.tolist() == [False]
    broken = snapshot({'a': layer([np.nan], [0.0])})
    assert draw_paths(*paths_through(broken, broken)) is None
