"""docs/examples: the detector with a pretrained backbone of docs/results.md."""

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmpsbn.engine.openmmlab import trace_at_any_size

EXAMPLES = Path(__file__).parents[2] / 'docs' / 'examples'


def test_its_blocks_its_neck_and_its_head_can_be_pruned(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    config = Config.fromfile(str(EXAMPLES / 'retinanet_shufflenetv2_bccd.py'))
    config.model.backbone.init_cfg = None
    init_default_scope('mmdet')
    model = MODELS.build(config.model).eval()
    backbone = model.backbone.state_dict()
    assert len(backbone) == 330 and backbone['stage4.3.branch_main.5.weight'].shape[0] == 96
    graph, _ = trace_at_any_size(model, torch.rand(1, 3, 64, 64))
    assert len(graph.groups) == 26
    assert sum(group.channels for group in graph.groups.values()) == 1440
