"""Theorem 1 against a run: the noise in the gradients, and the drops it predicts."""

import math
from dataclasses import replace

import pytest
import torch
from reports import Reader, layer, snapshot
from torch import nn

from mmpsbn.analysis.page import render_page
from mmpsbn.analysis.report.contents import report_of
from mmpsbn.analysis.report.look import Look, drops_of
from mmpsbn.analysis.report.subject import Course
from mmpsbn.analysis.report.theorem import Drop, drops_between, gradient_noise
from mmpsbn.layers import convert_to_psbn


@pytest.mark.parametrize('psbn', [False, True])
def test_the_noise_that_was_put_in_is_found(psbn):
    """dL/dy = g of a single position, independent and of standard deviation c."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(200), nn.ReLU()).double()
    with torch.no_grad():
        model[0].weight.uniform_(-1, 1)
        model[0].bias.uniform_(-0.5, 0.5)
    model = convert_to_psbn(model) if psbn else model
    model.eval()  # with running mean 0 and variance 1, xhat is what comes in

    def losses(batches, c):
        for _ in range(batches):
            x = torch.randn(1, 200, dtype=torch.float64)
            yield (model(x) * c * torch.randn_like(x)).sum()

    noise = gradient_noise(model, losses(60, c=0.03))
    # 60 x 200 draws: about two percent
    assert list(noise) == ['0'] and noise['0'] == pytest.approx(0.03, rel=0.07)
    assert gradient_noise(model, losses(1, c=0.03)) == {}


def test_a_gradient_that_is_always_the_same_is_no_noise():
    model = nn.Sequential(nn.BatchNorm1d(3))
    assert gradient_noise(model, ((5 * model[0].bias).sum() for _ in range(4))) == {'0': 0.0}


def test_frozen_and_unused_layers_have_no_noise():
    model = nn.ModuleList([nn.BatchNorm1d(2), nn.BatchNorm1d(2), nn.BatchNorm1d(2)])
    model[0].requires_grad_(False)
    losses = (model[1](torch.randn(4, 2)).square().sum() for _ in range(3))
    assert list(gradient_noise(model, losses)) == ['1']


def test_drops_by_hand():
    """K(0) = -1/pi: a step of lr changes Phi by -(lr c / gamma)^2 / (2 pi)."""
    before = snapshot({'a': layer([0.5, -1.0, 1e-4], [0.0, 0.0, 0.0]), 'gone': layer([1.0], [0.0])})
    after = snapshot({'a': layer([0.5, 1.0, 1.0], [-0.25, 0.0, 0.0])})
    noise = {'a': 0.1, 'gone': 1.0}
    (drop,) = drops_between(before, after, noise, lrs=[0.02, 0.04])
    squares = 0.02**2 + 0.04**2
    mean = (1 / 0.25 + 1) / 2
    assert (drop.layer, drop.channels, drop.left_out, drop.grad_std) == ('a', 2, 1, 0.1)
    assert drop.before == 0.5
    assert drop.predicted == pytest.approx(-squares * 0.01 / (2 * math.pi) * mean)
    phi = 0.5 * (1 + math.erf(-0.5 / math.sqrt(2)))
    assert drop.observed == pytest.approx((phi - 0.5) / 2, abs=1e-7)


def test_channels_as_small_as_a_step_are_left_out():
    same = snapshot({'a': layer([1.0, math.nan], [0.0, 0.0])})
    for lr, left in ((0.29, [1]), (0.31, [])):
        drops = drops_between(same, same, {'a': 1.0}, lrs=[lr])
        assert [drop.channels for drop in drops] == left


def test_the_section_weighs_layers_by_their_channels():
    drops = [Drop('a', 3, 0, 0.1, 0.5, -0.4, 0.1), Drop('b', 1, 2, 0.1, 0.5, 0.0, -0.1)]
    same = snapshot({'a': layer([0.5], [0.0])}, untraced='why')
    look = Look('net', (same, same), {0: drops}, None, None)
    content, _ = report_of(look, ['one.pth', 'two.pth'], None)
    page = Reader(render_page('report.html', **content))
    assert '-3.00e-01 between two checkpoints, and +5.00e-02 was observed' in page.text
    assert 'one.pth → two.pthb12' in page.text  # the second row: layer, channels, left out
    (dots,) = content['figures']['drops'].axes[0].collections
    assert dots.get_offsets().tolist() == [[-0.4, 0.1], [0.0, -0.1]]


def test_nothing_is_predicted_beyond_the_run_of_the_config():
    before = replace(snapshot({'a': layer([0.5], [0.0])}), step=1)
    course = Course('', (0.1, 0.1, 0.1))
    for last, found in ((3, [0]), (4, [])):
        snapshots = [before, replace(before, step=last)]
        assert list(drops_of(snapshots, [{'a': 0.1}], course)) == found


def test_a_forecast_that_says_nothing_is_no_section():
    same = snapshot({'a': layer([0.5], [0.0])}, untraced='why')
    for sentence, said in (('forecast: a filter that dies', True), ('forecast: none, as', False)):
        look = Look('net', (same,), {}, Course(sentence, None), None)
        content, data = report_of(look, ['one.pth'], None)
        text = Reader(render_page('report.html', **content)).text
        assert ('Forecast' in text) == ('these scales: a filter that dies.' in text) == said
        assert data['forecast'] == dict(sentence=sentence)
