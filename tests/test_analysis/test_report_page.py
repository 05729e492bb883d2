"""The report's page: well-formed, of one piece, readable and safe, whatever the model."""

import re
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

pytest.importorskip('matplotlib', reason='the report draws with matplotlib')

from test_report import SETTINGS, Given  # noqa: E402

from mmpsbn.analysis.report import Settings, write_report  # noqa: E402
from mmpsbn.analysis.report.numbers import totals  # noqa: E402
from mmpsbn.analysis.report.snapshot import take_snapshot  # noqa: E402
from mmpsbn.analysis.report.words import advice  # noqa: E402
from mmpsbn.layers import psBN2d  # noqa: E402

_VOID = {'meta', 'br', 'hr', 'img', 'input', 'link'}
_SVG_ALONE = re.compile(r'url\((?!#)|@import|expression\(')


class Reader(HTMLParser):
    """Reads a page strictly: tags close in order, and what refers to the outside is listed."""

    def __init__(self, html):
        super().__init__()
        self.open, self.ids, self.outside, self.pictures, self.scripts = [], [], [], 0, 0
        self.text, self.rows, self.alternatives = '', 0, []
        self.feed(html)
        self.close()
        assert self.open == [], f'left open: {self.open}'
        assert len(self.alternatives) == self.pictures, 'a picture without words for it'
        assert len(set(self.ids)) == len(self.ids), 'an id stands twice'
        self.outside += _SVG_ALONE.findall(html)

    def handle_starttag(self, tag, attributes):
        if tag not in _VOID:
            self.open.append(tag)
        self._look(tag, attributes)

    def handle_startendtag(self, tag, attributes):
        self._look(tag, attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f'</{tag}> where another is open'

    def handle_data(self, data):
        if 'style' not in self.open:
            self.text += data

    def _look(self, tag, attributes):
        self.pictures += tag == 'svg'
        self.scripts += tag == 'script'
        self.rows += tag == 'tr'
        if ('role', 'img') in attributes:
            self.alternatives.append(dict(attributes)['aria-label'])
        for name, value in attributes:
            if name == 'id':
                self.ids.append(value)
            reference = name in ('src', 'href', 'xlink:href', 'action', 'data', 'srcset')
            if reference and not value.startswith(('#', 'data:')):
                self.outside.append(value)


def write(models, tmp_path, settings=SETTINGS, **kwargs):
    subject = Given(models, **kwargs)
    files = write_report(
        subject, list(models), settings, out_dir=tmp_path, force=True,
        prune_command='tools/prune.py <config>',
    )  # fmt: skip
    return Reader(files[0].read_text(encoding='utf-8'))


class Branching(nn.Module):
    """Names that HTML and matplotlib would read, and a layer that only single images reach."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.add_module('<script>alert("a&b")</script>', nn.BatchNorm2d(4))
        self.rare = nn.Conv2d(4, 4, 1)
        self.add_module('$x_1$ \'"> <b>', nn.BatchNorm2d(4))
        self.behind = nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        children = list(self.children())
        x = children[1](children[0](x)).relu()
        if len(x) == 1:
            x = self.behind(children[3](self.rare(x)).relu())
        return self.fc(x.mean((2, 3)))


def net(*layers):
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(2))


def convolutions(channels=4, norm=nn.BatchNorm2d):
    model = net(nn.Conv2d(3, channels, 3), norm(channels), nn.ReLU(), nn.Conv2d(channels, 3, 1))
    model(torch.randn(2, 3, 6, 6))
    return model


def test_names_are_text_and_unreached_layers_are_named(tmp_path):
    page = write({'<i>&amp;.pth': Branching()}, tmp_path)
    assert page.scripts == 0 and not page.outside
    for name in ('<script>alert("a&b")</script>', '$x_1$ \'"> <b>', '<i>&amp;'):
        assert name in page.text
    assert '2 layers were never reached by the data' in page.text
    assert page.text.count('never reached by the data') == 3  # in the table as well


def test_advice_holds_the_command_that_prunes(tmp_path):
    model = convolutions()
    with torch.no_grad():
        model[1].weight[0], model[1].bias[0] = 0, -1
    page = write({'x.pth': model}, tmp_path)
    assert 'keep its function: tools/prune.py <config>.' in page.text
    assert '1 of 7 observed channels (14.3%) is dead' in page.text
    assert 'Dead among the 1 collapsed filter: all.' in page.text


def test_a_model_without_normalisation(tmp_path):
    page = write({'x.pth': convolutions(norm=lambda channels: nn.Identity())}, tmp_path)
    assert 'This model has no normalisation layer with a scale' in page.text
    assert 'observed channels' in page.text and page.pictures >= 2 and not page.outside


def test_a_model_without_layers(tmp_path):
    settings = Settings(thresholds=(1e-3,), eps=0.0, num_samples=1, score=False)
    page = write({'x.pth': nn.Sequential(nn.ReLU())}, tmp_path, settings)
    assert 'no normalisation layer' in page.text and page.pictures == 0


def test_scales_that_are_not_finite(tmp_path):
    model = convolutions()
    with torch.no_grad():
        model[1].weight[:2] = torch.tensor([torch.nan, torch.inf])
    page = write({'x.pth': model}, tmp_path)
    assert '2 scales are NaN or infinite' in page.text
    assert 'gamma is NaN or infinite in 2 channels' in page.text
    assert 'Find where the NaN comes from first' in page.text and not page.outside
    with torch.no_grad():
        model[1].weight.fill_(torch.nan)
    page = write({'x.pth': model}, tmp_path)
    assert 'None of the 4 scales γ is finite: this model is broken.' in page.text


def test_a_model_that_cannot_be_traced_still_has_its_scales_counted(tmp_path):
    model = convolutions()
    with torch.no_grad():
        model[1].weight[0] = 0
    model.forward = lambda x: 1 / 0
    settings = Settings(thresholds=(1e-3,), eps=0.0, num_samples=1, score=False)
    page = write({'x.pth': model}, tmp_path, settings)
    assert '1 of 4 filters (25.0%) has collapsed' in page.text
    assert 'the model was not traced (cannot trace Sequential (ZeroDivisionError' in page.text


@pytest.mark.parametrize('layers, channels', [(1202, 2), (2, 65_000)])
def test_large_models_fit_a_page(tmp_path, layers, channels):
    blocks = [nn.Conv2d(3, channels, 1), nn.BatchNorm2d(channels), nn.ReLU()]
    for _ in range(layers - 1):
        blocks += [nn.Conv2d(channels, channels, 1, groups=channels), nn.BatchNorm2d(channels)]
        blocks += [nn.ReLU()]
    model = net(*blocks)
    model(torch.randn(1, 3, 2, 2))
    settings = Settings(thresholds=(1e-3,), eps=0.0, num_samples=2, score=False)
    page = write({'x.pth': model}, tmp_path, settings, batches=[torch.randn(2, 3, 2, 2)])
    assert f'{layers * channels:,}' in page.text and not page.outside
    assert (tmp_path / 'report.html').stat().st_size < 3_000_000
    html = (tmp_path / 'report.html').read_text()
    assert ('<details>' in html) == (layers > 60)  # closed where it is long


def test_several_checkpoints_have_their_rounds(tmp_path):
    models = {f'epoch_{k}.pth': convolutions() for k in (1, 2, 3)}
    page = write(models, tmp_path)
    assert 'From checkpoint to checkpoint' in page.text
    assert all(name.removesuffix('.pth') in page.text for name in models)
    assert 'given: epoch_3' in page.text and not page.outside


def test_the_same_numbers_give_the_same_page(tmp_path):
    torch.manual_seed(0)
    model = convolutions()
    data = [torch.randn(4, 3, 6, 6)]
    for folder in ('a', 'b'):
        write({'x.pth': model}, tmp_path / folder, batches=data)
    assert (tmp_path / 'a/report.html').read_text() == (tmp_path / 'b/report.html').read_text()


@pytest.mark.parametrize('psbn', [False, True])
def test_psbn_is_not_advised_to_who_has_it(tmp_path, psbn):
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), psBN2d(4) if psbn else nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1)
    )
    with torch.no_grad():
        net[1].weight[0] = 0
    settings = Settings(thresholds=(1e-3,), eps=0.0, num_samples=1, score=False)
    snapshot = take_snapshot(
        net,
        name='x',
        kept={},
        example=None,
        trace=None,
        forward_fn=None,
        batches=None,
        score=None,
        settings=settings,
        step=None,
    )
    found = totals(snapshot, settings)
    text = advice(found, snapshot, settings, None)
    assert ('psBN in place of BN' in text) != psbn
    assert ('weight decay on the bias of psBN' in text) == psbn
