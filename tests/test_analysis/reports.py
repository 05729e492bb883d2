"""What the tests of the report share: a small net, a subject, snapshots, and a strict reader of
pages."""

import re
from html.parser import HTMLParser

import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip('matplotlib', reason='the report draws with matplotlib')

from mmpsbn.analysis.report import Settings, write_report  # noqa: E402
from mmpsbn.analysis.report.numbers import channel_table, layer_rows, totals  # noqa: E402
from mmpsbn.analysis.report.snapshot import Snapshot, take_snapshot  # noqa: E402
from mmpsbn.analysis.report.subject import Loaded, Subject  # noqa: E402
from mmpsbn.pruning import trace_channel_graph  # noqa: E402
from mmpsbn.pruning.census import LayerChannels  # noqa: E402

SETTINGS = Settings(thresholds=(1e-3, 0.5), eps=1e-12, num_samples=10_000, score=True)
UNSCORED = Settings(thresholds=(1e-3,), eps=0.0, num_samples=2, score=False)


class Chain(nn.Module):
    """conv 3->4, BN, ReLU, conv 4->5, BN, ReLU, mean, linear 5->2, on 6x6 images: no padding, so
    4x4 and 2x2 positions."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 5, 3, bias=False), nn.BatchNorm2d(5)
        self.fc = nn.Linear(5, 2)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))


class Given(Subject):
    """A subject of models that exist, by checkpoint; what else there is can be given."""

    def __init__(self, models, *, batches=None, growth=None, score=None):
        self.title, self.has_data = 'given', batches != ()
        self.models, self.data = models, batches or [torch.randn(4, 3, 6, 6)]
        self.growth = growth or {}
        self.score = score or (lambda model: {'accuracy': float('nan')})

    def load(self, checkpoint):
        model = self.models[checkpoint].eval()
        return Loaded(model, {}, self.growth.get(checkpoint))

    def example(self, model):
        return torch.randn(1, 3, 6, 6)

    def trace(self, model, example):
        return trace_channel_graph(model, example, self.forward_fn), example

    @staticmethod
    def forward_fn(model, batch):
        return model(batch)

    def batches(self, model):
        return iter(self.data)


def write(subject, out_dir, *, settings=SETTINGS, force=False, prune_command=None):
    """The files of a report on all models of a subject."""
    how = dict(out_dir=out_dir, force=force, prune_command=prune_command)
    return write_report(subject, list(subject.models), settings, **how)


def snapshot_of(model, *, settings=UNSCORED, **kwargs):
    """Of one model; without ``batches`` of its weights alone."""
    subject = Given({'x': model}, **{'batches': (), **kwargs})
    subject.has_data = 'batches' in kwargs or 'score' in kwargs
    return take_snapshot(subject, subject.load('x'), name='x', settings=settings)


def rows_of(found):
    return layer_rows(found, channel_table(found))


def totals_of(found):
    return totals(found, channel_table(found), rows_of(found))


def layer(gamma, bias, l1=None, activations=None):
    l1 = None if l1 is None else torch.tensor(l1)
    gamma = None if gamma is None else torch.tensor(gamma)
    return LayerChannels(gamma, torch.tensor(bias), 'conv', l1, activations)


def snapshot(layers, **kwargs):
    return Snapshot(name='x', settings=UNSCORED, layers=layers, **kwargs)


class Reader(HTMLParser):
    """Reads a page strictly: tags close in order, and what refers to the outside is listed."""

    def __init__(self, html):
        super().__init__()
        self.open, self.ids, self.outside, self.pictures, self.scripts = [], [], [], 0, 0
        self.text, self.alternatives = '', 0
        self.feed(html)
        self.close()
        assert self.open == [], f'left open: {self.open}'
        assert self.alternatives == self.pictures, 'a picture without words for it'
        assert len(set(self.ids)) == len(self.ids), 'an id stands twice'
        self.outside += re.findall(r'url\((?!#)|@import|expression\(', html)

    def handle_starttag(self, tag, attributes):
        if tag not in ('meta', 'br', 'hr', 'img', 'input', 'link', 'wbr'):
            self.open.append(tag)
        self.handle_startendtag(tag, attributes)

    def handle_startendtag(self, tag, attributes):
        self.pictures += tag == 'svg'
        self.scripts += tag == 'script'
        self.alternatives += ('role', 'img') in attributes and bool(dict(attributes)['aria-label'])
        for name, value in attributes:
            if name == 'id':
                self.ids.append(value)
            reference = name in ('src', 'href', 'xlink:href', 'action', 'data', 'srcset')
            if reference and not value.startswith(('#', 'data:')):
                self.outside.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f'</{tag}> where another is open'

    def handle_data(self, data):
        if 'style' not in self.open:
            self.text += data.replace('\u2060', '').replace('\u00a0', ' ')
