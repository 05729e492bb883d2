"""A model as seed and trained values, and what is trained of it."""

import io

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn
from toy import TRAINED_PARTS, ToyNet

from mmpsbn.models import TrainedParts, draw_model, pack_seed_checkpoint, unpack_seed_checkpoint

CFG = dict(type='ToyNet', norm_cfg=dict(type='psBN'))


def parts(train=None, freeze=None, per_channel=None):
    return TrainedParts(train, freeze, per_channel)


def trained(model, frozen):
    """As training does: every trained value and every buffer becomes another."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name not in frozen:
                parameter.normal_()
            elif frozen[name] is not None:
                parameter[frozen[name]] = 3.0
        for buffer in model.buffers():
            if buffer.dtype.is_floating_point:
                buffer.uniform_(0.1, 1)
            else:
                buffer.fill_(17)
    return model


def saved(checkpoint):
    file = io.BytesIO()
    torch.save(checkpoint, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_a_part_that_is_named_is_trained_whole_beside_two_weights_of_each_other_channel():
    frozen = parts(train=['stem'], per_channel=2).frozen(ToyNet(), 0)
    assert 'stem.weight' not in frozen
    assert frozen['blocks.0.conv1.weight'].flatten(1).sum(1).tolist() == [2] * 12


@pytest.mark.parametrize('norm', ['BN', 'psBN', 'psIN'])
@pytest.mark.parametrize('variant', TRAINED_PARTS)
def test_it_reloads_to_the_bit(variant, norm):
    cfg = dict(CFG, norm_cfg=dict(type=norm))
    chosen = parts(**TRAINED_PARTS[variant])
    model = draw_model(cfg, 5)
    frozen = chosen.frozen(model, 5)
    trained(model, frozen)
    checkpoint = saved(pack_seed_checkpoint(model, parts=chosen, seed=5, frozen=frozen))
    torch.manual_seed(123)  # of no consequence
    again = unpack_seed_checkpoint(checkpoint, cfg)
    ours, theirs = dict(model.named_parameters()), dict(again.named_parameters())
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, again.get_buffer(name)), name
    x = torch.randn(4, 3, 8, 8)
    assert torch.equal(model.eval()(x), again.eval()(x))


def packed(model):
    """Of norm layers that are trained."""
    chosen = parts(train=['norm'])
    frozen = chosen.frozen(model, 5)
    return pack_seed_checkpoint(model, parts=chosen, seed=5, frozen=frozen)


def test_only_what_is_trained_and_the_buffers_are_stored():
    model = draw_model(CFG, 5)
    model.register_buffer('mean', torch.zeros(3), persistent=False)  # no checkpoint has it
    # gamma, beta, running mean and variance of 48 channels; batches tracked by 5 layers
    assert {dtype: value.numel() for dtype, value in packed(model)['values'].items()} == {
        'torch.float32': 4 * 48,
        'torch.int64': 5,
    }


def test_norm_is_every_kind_of_norm_and_channels_of_a_transposed_convolution_are_outputs():
    norms = [
        nn.BatchNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.LayerNorm(5),
        nn.InstanceNorm2d(4, affine=True),
    ]
    model = nn.Sequential(nn.ConvTranspose2d(3, 4, 3), *norms, nn.Linear(5, 2))
    frozen = parts(train=['norm']).frozen(model, 0)
    assert set(frozen) == {'0.weight', '0.bias', '5.weight', '5.bias'}
    mask = parts(train=[], per_channel=2).frozen(model, 0)['0.weight']
    assert mask.sum((0, 2, 3)).tolist() == [2] * 4


def test_a_draw_leaves_the_random_state_and_depends_on_the_seed_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = draw_model(CFG, 5)
    assert torch.equal(torch.rand(3), expected)
    second, other = draw_model(CFG, 5), draw_model(CFG, 6)
    assert torch.equal(first.stem.weight, second.stem.weight)
    assert not torch.equal(first.stem.weight, other.stem.weight)


@pytest.fixture
def checkpoint():
    return saved(packed(draw_model(CFG, 5)))


def test_other_numbers_from_the_same_seed_are_an_error(checkpoint):
    """As another torch might draw."""

    @MODELS.register_module(force=True)
    class OtherNumbers(ToyNet):
        def init_weights(self):
            with torch.no_grad():
                weight = self.blocks[1].conv2.weight.view(-1)
                weight[7] = torch.nextafter(weight[7], weight[7] + 1)

    with pytest.raises(
        ValueError,
        match=f'weights that torch {torch.__version__.replace("+", ".")} draws from seed 5 are not '
        'those of the checkpoint, written by torch .*: use the config of that run, and its torch',
    ):
        unpack_seed_checkpoint(checkpoint, dict(CFG, type='OtherNumbers'))


@pytest.mark.parametrize(
    'bad', [{}, [], dict(meta={}, state_dict={}), dict(meta=dict(format=2, checksum=''))]
)
def test_what_is_no_such_checkpoint(bad):
    with pytest.raises(ValueError, match='this is no checkpoint of a seed and trained values'):
        unpack_seed_checkpoint(bad, CFG)


def test_other_trained_values_than_the_model_s(checkpoint):
    checkpoint['values']['torch.float32'] = checkpoint['values']['torch.float32'][:-1]
    with pytest.raises(ValueError, match=r'has \{.*191.*\} trained values and the model \{.*192'):
        unpack_seed_checkpoint(checkpoint, CFG)


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(), 'give one of train and freeze, got train=None, freeze=None'),
        (dict(train=['norm'], freeze=['fc']), 'give one of train and freeze'),
        (dict(train='norm'), r"train must be a list like \['norm', 'head.fc'\], got 'norm'"),
        (dict(freeze=['']), 'freeze must be a list'),
        (dict(train=[], per_channel=0), 'per_channel must be None or an int >= 1, got 0'),
        (dict(freeze=['norm'], per_channel=2), 'per_channel goes with train'),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        parts(**settings)


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(train=['norm', 'downsample']), "no parameter of ToyNet belongs to the part 'downs"),
        (dict(train=[]), 'trains nothing of ToyNet'),
        (dict(freeze=[]), 'trains everything of ToyNet'),
        (dict(freeze=['norm', 'fc', 'conv', 'stem']), 'trains nothing of ToyNet'),
    ],
)
def test_parts_that_do_not_fit_the_model(settings, message):
    with pytest.raises(ValueError, match=message):
        parts(**settings).frozen(ToyNet(), 0)
    with pytest.raises(ValueError, match="belongs to the part 'norm'"):
        parts(train=['norm']).frozen(nn.Linear(2, 2), 0)
