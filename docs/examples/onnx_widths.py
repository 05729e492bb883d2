"""What widths cost in ONNX Runtime: a detector cut to uniform widths, over the dense one.

python docs/examples/onnx_widths.py mmdet::retinanet/retinanet_r50_fpn_1x_coco.py --size 320 320

Random weights; processor time of one thread on one image, median over rounds in which all models
run in turn. docs/results.md, "Widths", has the results.
"""

import argparse
import copy
import statistics
import time

import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope

from mmpsbn.commands.launch import load_config
from mmpsbn.engine.onnx_file import one_thread_session
from mmpsbn.engine.openmmlab import forward_tensors, model_cfg_of
from mmpsbn.pruning import apply_plan, trace_channel_graph
from mmpsbn.pruning.cost import count_positions, model_cost
from mmpsbn.pruning.plan import plan_from_keep_masks
from mmpsbn.pruning.ranking import keep_masks_for_budget, layerwise_l1_scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config')
    parser.add_argument('--size', nargs=2, type=int, metavar=('HEIGHT', 'WIDTH'), required=True)
    parser.add_argument('--left', nargs='+', type=float, default=[0.5, 0.25], help='of the MACs')
    parser.add_argument('--multiples', nargs='+', type=int, default=[8, 16])
    parser.add_argument('--rounds', type=int, default=21)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cfg = load_config(args.config)
    cfg.model.backbone.init_cfg = None  # no download
    init_default_scope(cfg.default_scope)
    dense = revert_sync_batchnorm(MODELS.build(model_cfg_of(cfg))).eval()
    image = torch.rand(1, 3, *args.size)
    groups = trace_channel_graph(dense, image, forward_tensors).groups
    positions = count_positions(dense, image, forward_tensors)
    whole, scores = model_cost(dense, positions).macs, layerwise_l1_scores(dense, groups)
    models = {'dense': dense}
    for left in args.left:
        for multiple in args.multiples:
            masks, macs, _ = keep_masks_for_budget(
                dense,
                groups,
                scores,
                positions,
                measure='macs',
                target=left * whole,
                min_channels=1,
                multiples=[multiple],
            )
            narrow = copy.deepcopy(dense)
            apply_plan(narrow, plan_from_keep_masks(narrow, groups, masks))
            models[f'multiples of {multiple}, {macs / whole:.1%} of the MACs'] = narrow
    sessions = {name: one_thread_session(model, image) for name, model in models.items()}
    times = {name: [] for name in sessions}
    for _ in range(args.rounds):
        for name, session in sessions.items():
            start = time.process_time()
            session.run(None, dict(inputs=image.numpy()))
            times[name].append(time.process_time() - start)
    for name, seconds in times.items():
        ratio = statistics.median(a / b for a, b in zip(seconds, times['dense']))
        print(f'{name}: {1e3 * statistics.median(seconds):.1f} ms, {ratio:.2f} of the dense time')


if __name__ == '__main__':
    main()
