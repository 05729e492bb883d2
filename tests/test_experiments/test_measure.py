"""What is read of a trained arm, against what its files say."""

import copy
import json
import time

import far
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from snapshots import assert_same
from trained import ROOT

from mmpsbn.commands.model_files import save_weights
from mmpsbn.commands.recalibration import recalibrate_batch_norms
from mmpsbn.datasets import BatchCropFlip
from mmpsbn.engine.checkpoints.pruned_structure import META_KEY
from mmpsbn.engine.openmmlab import model_cfg_of
from mmpsbn.experiments import EXPERIMENTS, trained
from mmpsbn.experiments.measure import MEASURES, read_measures
from mmpsbn.experiments.reproduce import config_of
from mmpsbn.experiments.scales import data_settings, set_data
from mmpsbn.experiments.trained import TrainedArm
from mmpsbn.pruning import apply_plan, trace_channel_graph
from mmpsbn.pruning.plan import plan_from_keep_masks

# channels of BasicNet 32-0.25x
WIDTHS = [32, 32, 32, 64, 64, 128, 128]


@pytest.fixture
def folder_of(tmp_path, digits):
    """Work folder of an arm at ``smoke`` as if its net had been trained: with fresh weights and
    statistics of its data, spoilt by ``change(state dict, names of its norm layers)``."""

    def make(experiment, arm, change=lambda state, norms: None, logged=None, **history):
        (arm,) = (a for a in EXPERIMENTS[experiment].arms['smoke'] if a.name == arm)
        config = config_of(arm, ROOT / 'configs')
        set_data(config, data_settings('smoke', str(digits), default_folder=digits))
        config.dump(str(tmp_path / 'config.py'))
        init_default_scope('mmpretrain')
        torch.manual_seed(0)
        model = MODELS.build(model_cfg_of(config))
        model.init_weights()
        recalibrate_batch_norms(model, [images_of(model, config, 'train')])
        state = model.state_dict()
        change(state, [n.removesuffix('.running_mean') for n in state if 'running_mean' in n])
        scalars = {f'train/{name}': values for name, values in (logged or {}).items()}
        scalars |= {f'train/{name}': history.get(name, [1.0]) for name in ('loss', 'time')}
        buffers = {name: HistoryBuffer(x, [1] * len(x)) for name, x in scalars.items()}
        hub = dict(log_scalars=buffers)
        torch.save(dict(state_dict=state, message_hub=hub, meta={}), tmp_path / 'epoch_1.pth')
        return tmp_path

    return make


def read(folder, *names):
    arm = TrainedArm(folder)
    before = copy.deepcopy(arm.model.state_dict())
    numbers = read_measures(arm, list(names))
    assert list(numbers) == list(names)
    assert_same(arm.model.state_dict(), before)
    return numbers


def weights_of(sizes):
    """Of BasicNet's convolutions: 5x5, then 3x3."""
    kernels = [25, *[9] * 6]
    return sum(k * a * b for k, a, b in zip(kernels, [3, *sizes], sizes))


def watch_relus(arm, images):
    """Of each call of a ReLU in the net's convolutional part: shape (C,), share of zeros."""
    shares = []
    for module in arm.model.backbone.modules():
        if isinstance(module, torch.nn.ReLU):
            module.register_forward_hook(
                lambda module, args, out: shares.append((out == 0).float().mean((0, 2, 3)))
            )
    with torch.no_grad():
        arm.model(images, mode='tensor')
    return torch.cat(shares)


def images_of(model, config, split):
    """All of them in one batch, as the model sees them."""
    loader = Runner.build_dataloader(dict(config[f'{split}_dataloader'], batch_size=1000), seed=0)
    (batch,) = loader
    return model.data_preprocessor(batch, training=False)['inputs']


def test_accuracy_is_that_of_the_validation(pair):
    folder = pair / 'arms/first_1_seed_0'
    (row,) = json.loads((folder / 'rounds.json').read_text())
    assert TrainedArm(folder).accuracy() == pytest.approx(row['metrics']['accuracy/top1'])
    numbers = json.loads((folder / 'numbers.json').read_text())
    assert numbers['top1'] == [row['metrics']['accuracy/top1']]


def test_inactive_filters_by_gamma_and_by_activation(folder_of):
    def spoil(state, norms):
        state[f'{norms[2]}.weight'][:8] = 9e-4  # alive, for beta is positive
        state[f'{norms[2]}.bias'][:8] = 1.0
        state[f'{norms[4]}.bias'][:16] = -50.0
        state[f'{norms[7]}.weight'][:] = 0.0  # of the head: no filter

    times = [0.5, 0.25, 2.0]
    folder = folder_of(
        'implicit-optimizers', 'Adam L2, 0', spoil, loss=[9.0] + [1.0, 2.0] * 4, time=times
    )
    numbers = read(folder, 'small_by_layer', 'small_share', 'inactive_share', 'error')
    assert numbers['small_by_layer'] == pytest.approx([0, 0, 8 / 32, 0, 0, 0, 0])
    assert numbers['small_share'] == pytest.approx(8 / sum(WIDTHS))
    arm = TrainedArm(folder)
    dead = watch_relus(arm, images_of(arm.model, arm.config, 'train')) == 1
    assert len(dead) == sum(WIDTHS) and dead.sum() >= 16
    assert numbers['inactive_share'] == pytest.approx(dead.float().mean().item())
    assert numbers['error'] == pytest.approx(100 - TrainedArm(folder).accuracy())
    assert TrainedArm(folder).train_loss() == 1.5  # 320 images in batches of 40: the last 8
    assert TrainedArm(folder).train_seconds() == 2.75


def test_collapsed_filters_are_removed_for_real(folder_of):
    def collapse(state, norms):
        for number, count in ((2, 8), (4, 64)):
            for key in ('weight', 'bias'):
                state[f'{norms[number]}.{key}'][:count] = 1e-9

    folder = folder_of('implicit-prune', 'SGD L2, 0.001', collapse)
    numbers = read(folder, 'weights_removed', 'error', 'error_after')
    left = [32, 32, 24, 64, 1, 128, 128]  # a layer keeps its last one
    assert numbers['weights_removed'] == pytest.approx(1 - weights_of(left) / weights_of(WIDTHS))
    assert numbers['error_after'] == pytest.approx(numbers['error'])
    arm = TrainedArm(folder)
    images = torch.randn(2, 3, 32, 32)
    before = arm.model(images)[0]
    cut = arm.without_collapsed
    convolutions = [m for m in cut.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == left
    torch.testing.assert_close(cut(images)[0], before)


def test_removing_a_filter_that_works_changes_the_error(folder_of):
    """Not a mask of what is 0 anyway."""

    def shrink(state, norms):
        for norm in norms[:7]:
            state[f'{norm}.weight'][:] = 5e-4
            state[f'{norm}.bias'][:] = torch.randn(len(state[f'{norm}.bias']))

    arm = TrainedArm(folder_of('implicit-prune', 'Adam L2, 0.001', shrink))
    images = torch.randn(2, 3, 32, 32)
    before = arm.model(images)[0]
    removed = MEASURES['weights_removed'].read(arm)
    assert removed == pytest.approx(1 - weights_of([1] * 7) / weights_of(WIDTHS))
    assert (arm.without_collapsed(images)[0] - before).abs().max() > 1e-3


def test_small_gammas_and_what_they_are_worth(folder_of):
    def shrink(state, norms):
        for name in norms:
            state[f'{name}.weight'].fill_(0.5)
            state[f'{name}.bias'].fill_(0.5)
        state['backbone.bn1.weight'][:3] = torch.tensor([0.005, -0.04, 0.09])
        state['backbone.layer1.0.bn1.bias'][0] = -50.0  # its ReLU is off
        state['backbone.layer2.0.bn2.weight'].fill_(-0.07)
        state['backbone.layer3.0.bn2.bias'].copy_(torch.linspace(-1, -3, 16))

    folder = folder_of('bn-only', 'BN, 8', shrink)
    numbers = read(folder, *EXPERIMENTS['bn-only'].measures)
    # stem, then 2 norms a block of 4, 8 and 16 channels, and 2 shortcuts
    channels = 4 + 2 * (4 + 8 + 16) + 8 + 16
    assert numbers['small_gammas'] == pytest.approx(
        {'0.01': 1 / channels, '0.05': 2 / channels, '0.1': 11 / channels}
    )
    arm = TrainedArm(folder)
    zeros = watch_relus(arm, images_of(arm.model, arm.config, 'val'))
    off = zeros > 0.99
    assert len(off) == channels - 8 - 16
    # the last ones are pooled next; some are on in a few pixels of many pictures
    assert ((0.99 < zeros[-16:]) & (zeros[-16:] < 1)).any()
    assert numbers['relus_off'] == pytest.approx(off.float().mean().item())
    top1 = arm.accuracy()
    with torch.no_grad():
        arm.model.backbone.bn1.weight[:3] = 0
        arm.model.backbone.layer2[0].bn2.weight.zero_()
    assert numbers['top1'] == top1
    assert numbers['change_clamped']['0.1'] == pytest.approx(arm.accuracy() - top1)


def test_the_distributions_of_what_is_trained(folder_of):
    def set_signs(state, norms):
        for name in norms:
            state[f'{name}.weight'].fill_(0.5)
        state['backbone.bn1.weight'][:] = torch.tensor([-0.5, -0.5, 2.0, 0.5])
        state['backbone.bn1.bias'][0] = -50.0
        state['backbone.conv1.weight'][:3] *= 1e-4  # L1 norms below 1 % of the fourth

    folder = folder_of('bn-only', 'BN, 8', set_signs)
    names = 'gamma_quantiles', 'beta_quantiles', 'negative_gammas', 'zero_quantiles'
    numbers = read(folder, *names, 'l1_small', 'l1_quantiles')
    channels, filters = 4 + 2 * (4 + 8 + 16) + 8 + 16, 4 + 2 * (4 + 8 + 16) + 8 + 16
    assert numbers['negative_gammas'] == 2 / channels
    assert numbers['gamma_quantiles'] == [-0.5] + [0.5] * 19 + [2.0]
    assert numbers['beta_quantiles'][0] == -50 and numbers['beta_quantiles'][-1] == 0
    assert numbers['l1_small'] == 3 / filters
    assert numbers['l1_quantiles'][-1] == 1 and 0 < numbers['l1_quantiles'][0] < 1e-3
    arm = TrainedArm(folder)
    zeros = watch_relus(arm, images_of(arm.model, arm.config, 'val'))
    assert numbers['zero_quantiles'][10] == pytest.approx(zeros.quantile(0.5).item())


@pytest.mark.parametrize(
    'arm, count',
    [
        # gammas and betas of 84 channels; the head has 16 x 10 weights and 10 biases
        ('BN + output, 8', 2 * 84 + 170),
        ('output, 8', 170),
        ('2 random a channel, 8', 2 * 84),
    ],
)
def test_trained_parameters_are_those_that_are_not_frozen(folder_of, arm, count):
    assert read(folder_of('bn-only-controls', arm), 'trained_parameters') == dict(
        trained_parameters=count
    )


def test_the_path_of_a_layer_is_by_epoch_in_their_order(folder_of):
    folder = folder_of('psbn-lr', 'BN, 0.1')
    last = torch.load(folder / 'epoch_1.pth', weights_only=False)
    layer = 'backbone.layer3.0.bn1'  # of depth 8: the last but one
    for epoch, shift in ((10, 2.0), (9, 1.0)):
        state = dict(last['state_dict'])
        state[f'{layer}.weight'] = torch.linspace(0, 1, 16) + shift
        state[f'{layer}.bias'] = -state[f'{layer}.weight']
        torch.save(dict(last, state_dict=state), folder / f'epoch_{epoch}.pth')
    numbers = read(folder, 'gamma_path', 'beta_path')
    assert len(numbers['gamma_path']) == 3
    for at, shift in ((1, 1.0), (2, 2.0)):
        assert numbers['gamma_path'][at] == pytest.approx(
            {'p5': shift + 0.05, 'p50': shift + 0.5, 'p95': shift + 0.95}
        )
        assert numbers['beta_path'][at]['p5'] == pytest.approx(-shift - 0.95)
    assert read(folder, 'ratio_path')['ratio_path'] == [dict(p5=None, p50=None, p95=None)] * 3


def test_the_ratio_of_beta_and_gamma_is_of_what_has_collapsed_in_the_end(folder_of):
    folder = folder_of('psbn-lr', 'psBN, 0.1')
    last = torch.load(folder / 'epoch_1.pth', weights_only=False)
    layer = 'backbone.layer3.0.bn1'
    for epoch, shrunk in ((1, 1.0), (2, 1e-2), (3, 1e-4)):
        gamma = torch.full((16,), shrunk)
        gamma[5:] = 0.5  # these stay
        gamma[4] *= 0  # of no ratio
        ratio = torch.tensor([-1.0, -2.0, -3.0, -4.0, 9.0] + [7.0] * 11)
        state = dict(last['state_dict'])
        state[f'{layer}.weight'], state[f'{layer}.bias'] = gamma, gamma * ratio + 0.1  # alpha
        torch.save(dict(last, state_dict=state), folder / f'epoch_{epoch}.pth')
    for of in read(folder, 'ratio_path')['ratio_path']:
        assert of == pytest.approx(dict(p5=-3.85, p50=-2.5, p95=-1.15), rel=1e-3)


def test_the_dead_by_epoch_are_those_of_all_logs_in_their_order(folder_of):
    folder = folder_of('demp-dead-neurons', 'SGDM, 0.001')
    logs = {  # the second look was lost, and taken again by a process that resumed
        '20260101_000000': [(5, 0.1, 0.05, {}), (10, 0.9, 0.9, dict(dead_overlap=0.1))],
        '20260101_000001': [(10, 0.2, 0.15, dict(dead_overlap=0.75))],
    }
    for timestamp, looks in logs.items():
        (folder / timestamp / 'vis_data').mkdir(parents=True)
        lines = [
            {f'sparsity/{name}/{key}': value for key, value in values.items()} | dict(step=step)
            for step, few, of_all, more in looks
            for name, values in dict(
                few=dict(dead_fraction=few, **more), all=dict(dead_fraction=of_all)
            ).items()
        ]
        text = '\n'.join(map(json.dumps, [dict(loss=1.0, iter=1, step=1), *lines]))
        (folder / timestamp / 'vis_data/scalars.json').write_text(text)
    assert read(folder, 'dead_by_epoch', 'overlap_by_epoch') == dict(
        dead_by_epoch=[dict(few=0.1, all=0.05), dict(few=0.2, all=0.15)],
        overlap_by_epoch=[None, 0.75],
    )


def test_universality_is_by_layer_and_what_is_never_active_has_none(folder_of):
    def silence(state, norms):
        state[f'{norms[4]}.bias'][:60] = -50.0  # 0 for each image
        state[f'{norms[5]}.weight'][:] = 1e-9
        state[f'{norms[5]}.bias'][:] = 1.0  # constant: each image reaches the peak
        state[f'{norms[6]}.bias'][:] = -50.0

    folder = folder_of('implicit-optimizers', 'Adam L2, 0', silence)
    numbers = read(folder, 'universality_by_layer', 'inactive_by_layer')
    by_layer, inactive = numbers.values()
    assert len(by_layer) == 7 and by_layer[5:] == [1, 0] and inactive[5:] == [0, 1]
    arm = TrainedArm(folder)
    peaks = []
    for module in arm.model.backbone.modules():
        if isinstance(module, torch.nn.ReLU):
            module.register_forward_hook(lambda m, args, out: peaks.append(out.amax((2, 3))))
    with torch.no_grad():
        arm.model(images_of(arm.model, arm.config, 'train'), mode='tensor')
    assert inactive == [(of.amax(0) == 0).double().mean().item() for of in peaks[:7]]
    assert inactive[4] >= 60 / 64
    shares = [(of > 1e-3 * of.amax(0)).double().mean().item() for of in peaks[:6]]
    # the middle of bounds that differ by the images within 9 % of the threshold
    assert by_layer[:6] == pytest.approx(shares, abs=5e-3)


def test_relus_are_read_where_the_net_is_and_told_of_on_the_cpu(folder_of):
    arm = TrainedArm(folder_of('bn-only', 'BN, 8'))
    expected = MEASURES['zero_quantiles'].read(arm)
    far.extension()
    other = TrainedArm(folder_of('bn-only', 'BN, 8'))
    other.model = other.model.to('far')
    assert {of.device.type for of in other.relus} == {'cpu'}
    assert MEASURES['zero_quantiles'].read(other) == pytest.approx(expected)


def test_at_the_start_the_loss_tells_of_the_channels_of_every_baseline(folder_of):
    for arms in EXPERIMENTS['demp-baselines'].arms.values():
        for arm in arms:
            backbone = config_of(arm, ROOT / 'configs').model.backbone
            assert backbone.zero_init_residual is False, arm.name
    model = TrainedArm(folder_of('demp-baselines', 'SGDM, SNAP, 0.5')).model
    gammas = [m.weight for n, m in model.named_modules() if n.endswith('.bn2')]
    assert len(gammas) == 8 and all(bool((of == 1).all()) for of in gammas)


def test_flops_left_are_those_of_collapse_and_of_pruning(folder_of):
    folder = folder_of('psbn-lr', 'BN, 0.1')
    rows = [dict(flops_sparsity=0.25, dead=None), dict(flops_sparsity=0.5, dead=3, prunable=12)]
    (folder / 'rounds.json').write_text(json.dumps(rows))
    assert read(folder, 'flops_left', 'dead_share') == dict(
        flops_left=[0.75, 0.5], dead_share=[None, 0.25]
    )
    arm = TrainedArm(folder)
    arm.left = dict(macs=0.5)
    assert MEASURES['flops_left'].read(arm) == [0.375, 0.25]


def test_what_pruning_in_training_has_removed(folder_of):
    folder = folder_of('demp-tradeoff', 'SGDM, 0.001')
    arm = TrainedArm(folder)
    assert MEASURES['removed'].read(arm) == dict(weights=0, channels=0, macs=0, params=0)
    image = torch.randn(1, 3, 32, 32)
    graph = trace_channel_graph(arm.model, image, lambda model, batch: model(batch))
    group = graph.groups['backbone.layer1.0.conv1']
    keep = torch.arange(8) >= 6
    plan = plan_from_keep_masks(arm.model, {group.name: group}, {group.name: keep})
    apply_plan(arm.model, plan)
    save_weights(arm.model, str(folder / 'epoch_1.pth'), **{META_KEY: dict(plan=plan.to_dict())})
    # ResNet-18 with 8, 16, 32, 64 channels: convolutions of 3x3, shortcuts of 1x1, 10 classes
    stages = [(8, 8), (8, 16), (16, 32), (32, 64)]
    stem, head = 9 * 3 * 8, 64 * 10
    blocks = [9 * (a * b + 3 * b * b) + (a * b if a != b else 0) for a, b in stages]
    sides = [32, 16, 8, 4]
    macs = 32**2 * stem + head + sum(side**2 * block for side, block in zip(sides, blocks))
    gone = 2 * 9 * 8 * 6
    names = 'small_by_layer', 'small_share', 'weights_removed'
    by_layer, share, weights = read(folder, *names).values()
    assert by_layer[:3] == [0, 6 / 8, 1]
    # the second gammas of the blocks began at 0; their channels have others behind the shortcuts
    assert share == pytest.approx((6 + 2 * (8 + 16 + 32 + 64)) / 600)
    assert weights == pytest.approx(gone / (stem + sum(blocks)))
    parameters = stem + head + 10 + sum(blocks) + 2 * 600  # gamma and beta of 600 channels
    assert MEASURES['removed'].read(TrainedArm(folder)) == pytest.approx(
        dict(
            params=(gone + 2 * 6) / parameters,
            weights=gone / (stem + head + sum(blocks)),
            channels=6 / (8 + 4 * (8 + 16 + 32 + 64)),
            macs=32**2 * gone / macs,
        )
    )


NAMES = 'weight_sparsity', 'training_flops', 'inference_flops'


@pytest.mark.parametrize(
    'arm, logged, expected',
    [
        ('dense', {}, (0, 1, 1)),
        ('0.001', {'demp/macs_left': [1.0, 0.5, 0.25, 0.25]}, (0, (1 + 1 + 0.5 + 0.25) / 4, 0.25)),
        ('SNAP, 0.5', {'demp/macs_left': [0.5, 0.5]}, (0, 0.5, 0.5)),
        (
            'rigl, 0.5',
            {
                'sparse/macs_left': [0.5, 0.5],
                'sparse/weights_left': [0.5, 0.25],
                'sparse/dense_gradients': [0.0, 1.0],
            },
            (0.75, (0.5 + (2 * 0.5 + 1) / 3) / 2, 0.5),
        ),
    ],
)
def test_flops_of_training_and_sparsity_of_masks_are_those_of_the_log(
    folder_of, arm, logged, expected
):
    experiment = 'demp-baselines' if ', ' in arm else 'demp-tradeoff'
    folder = folder_of(experiment, f'SGDM, {arm}', logged=logged)
    numbers = read(folder, *NAMES)
    assert [numbers[name] for name in NAMES] == pytest.approx(list(expected))


def test_speed_is_that_of_the_dense_net_beside_it(folder_of, monkeypatch):
    arm = TrainedArm(folder_of('demp-tradeoff', 'SGDM, 0.001'))
    dense = sum(p.numel() for p in arm.model.parameters())
    arm.model.backbone.layer1 = torch.nn.Identity()
    own = sum(p.numel() for p in arm.model.parameters())
    before = copy.deepcopy(arm.model.state_dict())
    asked = []

    def seconds(net, *args, seconds=trained.step_seconds):
        assert args[-1] is time.process_time  # of one thread
        assert seconds(net, *args) > 0
        assert type(net.data_preprocessor) is BatchCropFlip
        asked.append(sum(p.numel() for p in net.parameters()))
        return asked[-1] * (10 if len(asked) in (1, 4) else 1)  # a slow one of each

    monkeypatch.setattr(trained, 'step_seconds', seconds)
    monkeypatch.setattr(trained, '_ROUNDS', 5)
    assert arm.speedup() == dense / own
    assert asked == [dense, own] * 5
    assert_same(arm.model.state_dict(), before)
    assert not arm.model.training
