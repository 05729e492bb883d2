"""What removed channels are worth on the clock: dense models beside pruned ones.

Time of a training step (forward, backward, SGD with momentum) and of inference, dense and at
several weight sparsities (share of conv and linear weights removed).

* MACs gain: MACs of the dense model over those of the pruned one.
* efficiency: time gain over MACs gain. Target: >= 0.8.
* ours / TP: our time over that of Torch-Pruning's copy with the same channels removed. Its widths
  are the same, so this is 1 but for noise. Needs requirements/compare.txt.

Detectors run up to the outputs of the head: losses and NMS do not depend on the widths. On a CPU
that other jobs use: --cpu-time --threads 1. Two threads that wait for each other on one free core
measure the waiting.
"""

import copy
import warnings
from pathlib import Path

import timing
import torch
import torchvision
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from timing import FORMATS
from torch import nn

from mmpsbn.pruning import apply_plan, trace_channel_graph
from mmpsbn.pruning.cost import count_positions, model_cost
from mmpsbn.pruning.forward import call_with, tensors_in
from mmpsbn.pruning.plan import plan_from_keep_masks
from mmpsbn.pruning.ranking import keep_masks_for_budget, rank_channels

TARGET = 0.8
CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
HEAD = ['model', 'phase', 'weights removed', 'round to', 'MACs gain', 'ms', 'time gain']
HEAD += ['efficiency', 'ours / TP']


def resnet18_cifar():
    model = torchvision.models.resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)  # 32 pixels stay 32
    model.maxpool = nn.Identity()
    return model


def vgg16_cifar():
    """The convolutions of VGG-16-BN and one linear layer, as is usual at 32x32."""
    features = torchvision.models.vgg16_bn().features
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def retinanet_r50():
    from mmdet.registry import MODELS  # here: the others do without it

    init_default_scope('mmdet')
    config = Config.fromfile(CONFIGS / 'retinanet/retinanet_r50_bn_demp.py').model
    config.backbone.init_cfg = None  # no download
    # a frozen stem would make the backward pass less than twice the MACs of the forward pass
    config.backbone.frozen_stages = -1
    return MODELS.build(config)


# name -> model, pixels, images
CASES = {
    'resnet18': (resnet18_cifar, 32, 128),
    'vgg16': (vgg16_cifar, 32, 128),
    'resnet50': (torchvision.models.resnet50, 224, 8),
    'retinanet': (retinanet_r50, 320, 2),
}


def pruned_copies(dense, image, *, sparsities, round_to, seed):
    """Sparsity -> a pruned copy and its plan, channels drawn evenly; and ``macs(model)``."""
    positions = count_positions(dense, image, call_with)
    graph = trace_channel_graph(dense, image, call_with)
    scores = rank_channels(dense, graph.groups, criterion='uniform', seed=seed)
    copies = {}
    for sparsity in sparsities:
        masks, *_ = keep_masks_for_budget(
            dense,
            graph.groups,
            scores,
            positions,
            measure='params',
            target=(1 - sparsity) * model_cost(dense, positions).params,
            min_channels=1,
            multiples=[round_to],
        )
        ours = copy.deepcopy(dense)
        plan = plan_from_keep_masks(ours, graph.groups, masks)
        apply_plan(ours, plan)
        copies[sparsity] = ours, plan
    return copies, lambda model: model_cost(model, positions).macs


def prune_as_torch_pruning(dense, image, plan):
    """A copy of the dense model from which Torch-Pruning removed what the plan removes."""
    import torch_pruning  # not needed with --alone

    model = copy.deepcopy(dense)
    graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=image)
    for name, layer in model.named_modules():
        kept = plan.kept.get(f'{name}.weight', {}).get(0)
        # done already, where it goes together with a layer that came before
        if kept is None or not isinstance(layer, nn.Conv2d) or len(layer.weight) == len(kept):
            continue
        gone = sorted(set(range(len(layer.weight))) - set(kept))
        remove = torch_pruning.prune_conv_out_channels
        graph.get_pruning_group(layer, remove, idxs=gone).prune()
    return model


def weights_of(model):
    """Number of weights of the conv and linear layers."""
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))


def runs_of(model, images, memory_format):
    """A training step and inference, as functions of nothing."""
    # after pruning: what is removed must not depend on the format
    model = copy.deepcopy(model).to(memory_format=memory_format)
    images = images.to(memory_format=memory_format)
    # A rate at which nothing changes: weights that drift to 0 would reach slow denormals.
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-12, momentum=0.9)

    def training():
        model.train()
        optimizer.zero_grad()
        sum(out.square().mean() for out in tensors_in(model(images))).backward()
        optimizer.step()

    def inference():
        model.eval()
        with torch.inference_mode():
            model(images)

    return dict(training=training, inference=inference)


def measure(name, bench, *, sparsities, roundings, side, batch, memory_format, alone, device):
    """The rows of a model: one for each phase, sparsity and rounding. ``side`` and ``batch`` are
    by default the model's."""
    build, usual_side, usual_batch = CASES[name]
    side, batch = side or usual_side, batch or usual_batch
    torch.manual_seed(bench.seed)
    dense = build().to(device)
    images = torch.randn(batch, 3, side, side, device=device)
    models, copies = {'dense': dense}, {}
    for round_to in roundings:
        how = dict(sparsities=sparsities, round_to=round_to, seed=bench.seed)
        pruned, macs = pruned_copies(dense, images[:1], **how)
        for sparsity, (ours, plan) in pruned.items():
            key = f'{sparsity:.0%}, {round_to}'
            copies[key], models[key] = round_to, ours
            if not alone:
                models[f'TP {key}'] = prune_as_torch_pruning(dense, images[:1], plan)
    runs = {key: runs_of(model, images, memory_format) for key, model in models.items()}
    rows = []
    for phase in ('training', 'inference'):
        seconds = bench.side_by_side({key: run[phase] for key, run in runs.items()})
        for key, round_to in copies.items():
            gain, macs_gain = timing.ratio(seconds, 'dense', key), macs(dense) / macs(models[key])
            efficiency = round(gain.median / macs_gain, 2)
            rows.append(
                [
                    f'{name} {batch}x{side}x{side}',
                    phase,
                    f'{1 - weights_of(models[key]) / weights_of(dense):.1%}',
                    round_to,
                    f'{macs_gain:.2f}',
                    ' -> '.join(f'{timing.milliseconds(seconds[k]):.1f}' for k in ('dense', key)),
                    gain,
                    f'{efficiency:.2f}' + ' (missed)' * (efficiency < TARGET),
                    '' if alone else timing.ratio(seconds, key, f'TP {key}'),
                ]
            )
    return rows


def parse_args(argv):
    parser = timing.parser(__doc__, rounds=3)
    parser.add_argument('--models', nargs='+', choices=CASES, default=list(CASES))
    parser.add_argument('--sparsity', nargs='+', type=float, default=[0.5, 0.8, 0.9])
    parser.add_argument('--round-to', nargs='+', type=int, default=[1, 8])
    parser.add_argument('--format', choices=FORMATS, default='contiguous', help='of the memory')
    parser.add_argument('--batch', type=int, help='images; default: by model')
    parser.add_argument('--side', type=int, help='pixels; default: by model')
    parser.add_argument('--alone', action='store_true', help='without Torch-Pruning')
    parser.add_argument('--device', default=get_device())
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    bench = timing.begin(args)
    warnings.simplefilter('ignore')
    how = dict(side=args.side, batch=args.batch, alone=args.alone, device=args.device)
    how |= dict(sparsities=args.sparsity, roundings=args.round_to)
    how['memory_format'] = FORMATS[args.format]
    rows = [row for name in args.models for row in measure(name, bench, **how)]
    timing.print_table(HEAD, rows)


if __name__ == '__main__':
    main()
