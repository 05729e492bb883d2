"""What is read of a trained arm, against what its files say."""

import json

import pytest
import torch
from arms import WIDTHS, images_of, read, watch_relus

from mmpsbn.experiments import EXPERIMENTS
from mmpsbn.experiments.measure import MEASURES
from mmpsbn.experiments.reproduce import config_of
from mmpsbn.experiments.scales import SCALES
from mmpsbn.experiments.trained import TrainedArm


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
                few=dict(dead_fraction=few, **more), all=dict(dead_fraction=of_all, revived=step)
            ).items()
        ]
        text = '\n'.join(map(json.dumps, [dict(loss=1.0, iter=1, step=1), *lines]))
        (folder / timestamp / 'vis_data/scalars.json').write_text(text)
    assert read(folder, 'dead_by_epoch', 'overlap_by_epoch', 'revivals') == dict(
        dead_by_epoch=[dict(few=0.1, all=0.05), dict(few=0.2, all=0.15)],
        overlap_by_epoch=[None, 0.75],
        revivals=15,
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


def test_at_the_start_the_loss_tells_of_the_channels_of_every_baseline(folder_of):
    for scale in SCALES:
        for arm in EXPERIMENTS['demp-baselines'].arms(scale):
            backbone = config_of(arm).model.backbone
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
