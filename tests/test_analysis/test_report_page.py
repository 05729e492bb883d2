"""The report's page: well-formed, of one piece, readable and safe, whatever the model."""

import pytest
import reports
import torch
from reports import SETTINGS, UNSCORED, Chain, Given, Reader, snapshot_of, totals_of
from torch import nn

from mmpsbn.analysis.report.words import advice
from mmpsbn.layers import psBN2d


def write(models, tmp_path, settings=SETTINGS, prune_command=None, **kwargs):
    how = dict(settings=settings, prune_command=prune_command, force=True)
    files = reports.write(Given(models, **kwargs), tmp_path, **how)
    page = Reader(files[0].read_text(encoding='utf-8'))
    assert page.scripts == 0 and not page.outside
    return page


def net(*layers):
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(2))


def convolutions(norm=nn.BatchNorm2d):
    model = net(nn.Conv2d(3, 4, 3), norm(4), nn.ReLU(), nn.Conv2d(4, 3, 1))
    model(torch.randn(2, 3, 6, 6))
    return model


def without_norms():
    return convolutions(norm=lambda channels: nn.Identity())


def with_a_dead_channel(norm=nn.BatchNorm2d):
    model = convolutions(norm)
    with torch.no_grad():
        model[1].weight[0], model[1].bias[0] = 0, -1
    return model


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


def test_names_are_text_and_unreached_layers_are_named(tmp_path):
    page = write({'<i>&amp;.pth': Branching()}, tmp_path)
    for name in ('<script>alert("a&b")</script>', '$x_1$ \'"> <b>', '<i>&amp;.pth'):
        assert name in page.text
    assert '2 layers were never reached by the data' in page.text
    assert page.text.count('never reached by the data') == 3  # in the table as well


def test_the_next_step_is_a_command_that_does_not_break_at_a_hyphen(tmp_path):
    command = "mmpsbn prune 'my net.py' x.pth --criterion dead"
    page = write({'x.pth': with_a_dead_channel()}, tmp_path, prune_command=command)
    assert command in page.text
    html = (tmp_path / 'report.html').read_text()
    assert '<span>--criterion</span> <span>dead</span>' in html
    assert 'nowrap' in html[html.index('.command span') :].split('\n')[0]
    assert '1 of 7 observed channels (14.3%) is dead' in page.text
    assert 'Dead among the 1 collapsed filter: all.' in page.text
    page = write({'x.pth': with_a_dead_channel()}, tmp_path)
    assert 'keep its function: mmpsbn.pruning.prune_dead_channels(model, batches).' in page.text
    assert '<code>mmpsbn.pruning.prune_dead' in (tmp_path / 'report.html').read_text()


def test_layers_with_channels_have_numbers(tmp_path):
    """The linear layer, which has none of its own, has MACs and no number."""
    page = write({'x.pth': Chain()}, tmp_path)
    html = (tmp_path / 'report.html').read_text()
    assert 'All layers' in page.text
    assert '<td>2</td><td class="name">bn2</td>' in html
    assert '<td></td><td class="name">fc</td>' in html


def test_a_model_without_normalisation(tmp_path):
    page = write({'x.pth': without_norms()}, tmp_path)
    assert 'This model has no normalisation layer with a scale' in page.text
    assert 'observed channels' in page.text and page.pictures >= 2


def test_a_model_without_layers(tmp_path):
    page = write({'x.pth': nn.Sequential(nn.ReLU())}, tmp_path, UNSCORED)
    assert 'no normalisation layer' in page.text and page.pictures == 0
    assert 'Pictures' not in page.text and 'Layers' not in page.text


def test_scales_that_are_not_finite(tmp_path):
    model = convolutions()
    with torch.no_grad():
        model[1].weight[:2] = torch.tensor([torch.nan, torch.inf])
    page = write({'x.pth': model}, tmp_path)
    assert '2 scales are NaN or infinite' in page.text
    assert 'gamma is NaN or infinite in 2 channels' in page.text
    assert 'Find where the NaN comes from first' in page.text
    with torch.no_grad():
        model[1].weight.fill_(torch.nan)
    page = write({'x.pth': model}, tmp_path)
    assert 'None of the 4 scales γ is finite: this model is broken.' in page.text


def test_a_model_that_cannot_be_traced_still_has_its_scales_counted(tmp_path):
    model = with_a_dead_channel()
    model.forward = lambda x: 1 / 0
    page = write({'x.pth': model}, tmp_path, UNSCORED)
    assert '1 of 4 filters (25.0%) has collapsed' in page.text
    assert 'the model was not traced (cannot trace Sequential (ZeroDivisionError' in page.text
    with torch.no_grad():
        model[1].weight.fill_(1.0)
    page = write({'x.pth': model}, tmp_path, UNSCORED)
    assert 'Nothing to do as far as the weights tell.' in page.text
    del model.forward
    page = write({'x.pth': model}, tmp_path, UNSCORED, batches=())
    assert 'Nothing to do as far as the weights tell; with --data' in page.text


@pytest.mark.parametrize('layers, channels', [(1202, 2), (2, 65_000)])
def test_large_models_fit_a_page(tmp_path, layers, channels):
    blocks = [nn.Conv2d(3, channels, 1), nn.BatchNorm2d(channels), nn.ReLU()]
    for _ in range(layers - 1):
        blocks += [nn.Conv2d(channels, channels, 1, groups=channels), nn.BatchNorm2d(channels)]
        blocks += [nn.ReLU()]
    model = net(*blocks)
    model(torch.randn(1, 3, 2, 2))
    page = write({'x.pth': model}, tmp_path, UNSCORED, batches=[torch.randn(2, 3, 2, 2)])
    assert f'{layers * channels:,}' in page.text
    assert (tmp_path / 'report.html').stat().st_size < 3_000_000
    html = (tmp_path / 'report.html').read_text()
    assert ('<details>' in html) == (layers > 60)  # closed where it is long


def test_several_checkpoints_are_compared_with_or_without_scales(tmp_path):
    write({'a.pth': convolutions(), 'b.pth': convolutions()}, tmp_path)
    assert 'Ways through the' in (tmp_path / 'report.html').read_text()
    models = {f'run/epoch_{k}.pth': without_norms() for k in (1, 2, 3)}
    page = write(models, tmp_path)
    assert 'From checkpoint to checkpoint' in page.text and 'given: epoch_3.pth' in page.text
    html = (tmp_path / 'report.html').read_text().replace('<wbr>', '')  # names may be broken
    assert all(f'<td class="name">epoch_{k}.pth</td>' in html for k in (1, 2, 3))
    assert 'From checkpoint' not in write({'x.pth': convolutions()}, tmp_path).text


def test_the_same_numbers_give_the_same_page(tmp_path):
    torch.manual_seed(0)
    model = convolutions()
    data = [torch.randn(4, 3, 6, 6)]
    for folder in ('a', 'b'):
        write({'x.pth': model}, tmp_path / folder, batches=data)
    assert (tmp_path / 'a/report.html').read_text() == (tmp_path / 'b/report.html').read_text()


@pytest.mark.parametrize('psbn', [False, True])
def test_psbn_is_not_advised_to_who_has_it(psbn):
    found = snapshot_of(with_a_dead_channel(psBN2d if psbn else nn.BatchNorm2d))
    (step,) = advice(found, totals_of(found), None)
    assert ('psBN in place of BN' in step.words) != psbn
    assert ('weight decay on the bias of psBN' in step.words) == psbn
