"""What takes the model of a trained arm, against what is known of it."""

import copy
import json
import time

import far
import pytest
import torch
from arms import WIDTHS, read, weights_of
from mmengine.registry import MODELS, init_default_scope
from snapshots import assert_same

from mmpsbn.commands.model_files import save_weights
from mmpsbn.datasets import BatchCropFlip
from mmpsbn.engine.checkpoints.pruned_structure import META_KEY
from mmpsbn.engine.openmmlab import model_cfg_of
from mmpsbn.experiments import EXPERIMENTS, trained
from mmpsbn.experiments.measure import MEASURES
from mmpsbn.experiments.reproduce import config_of
from mmpsbn.experiments.trained import TrainedArm
from mmpsbn.pruning import apply_plan, trace_channel_graph
from mmpsbn.pruning.plan import plan_from_keep_masks


def test_accuracy_is_that_of_the_validation(pair):
    folder = pair / 'arms/first_1_seed_0'
    (row,) = json.loads((folder / 'rounds.json').read_text())
    assert TrainedArm(folder).accuracy() == pytest.approx(row['metrics']['accuracy/top1'])
    numbers = json.loads((folder / 'numbers.json').read_text())
    assert numbers['top1'] == [row['metrics']['accuracy/top1']]


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


def test_the_map_is_of_the_net_and_not_of_a_log_that_may_lack_it(tmp_path, digits):
    experiment = EXPERIMENTS['finetune-tradeoff']
    (dense,) = (arm for arm in experiment.arms('smoke') if arm.name == 'dense, 100')
    config = config_of(dense)
    data = experiment.data
    data.write(config, data.settings('smoke', str(digits), default_folder=digits))
    config.dump(str(tmp_path / 'config.py'))
    init_default_scope('mmdet')
    net = MODELS.build(model_cfg_of(config))
    torch.save(dict(state_dict=net.state_dict(), meta={}), tmp_path / 'epoch_2.pth')
    arm = TrainedArm(tmp_path)

    def find_all(batch):
        for sample in batch['data_samples']:
            found = sample.gt_instances.clone()
            found.bboxes = found.bboxes.tensor / torch.tensor(sample.scale_factor).repeat(2)
            found.scores = torch.ones(len(found))
            sample.pred_instances = found
        return batch['data_samples']

    arm.model.val_step = find_all
    assert MEASURES['map'].read(arm) == 1


def test_relus_are_read_where_the_net_is_and_told_of_on_the_cpu(folder_of):
    arm = TrainedArm(folder_of('bn-only', 'BN, 8'))
    expected = MEASURES['zero_quantiles'].read(arm)
    far.extension()
    other = TrainedArm(folder_of('bn-only', 'BN, 8'))
    other.model = other.model.to('far')
    assert {of.device.type for of in other.relus} == {'cpu'}
    assert MEASURES['zero_quantiles'].read(other) == pytest.approx(expected)


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
