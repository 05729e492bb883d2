"""Tracing, choice and surgery on a device that is not the CPU (tests/far): as on the CPU."""

import copy

import far
import pytest
import torch
from nets import NETS, build, flat, silence

from mmpsbn.pruning import prune_dead_channels, trace_channel_graph
from mmpsbn.pruning.cost import count_positions, model_cost
from mmpsbn.pruning.forward import call_with
from mmpsbn.pruning.ranking import RANKING_CRITERIA, keep_masks_for_budget, rank_channels
from mmpsbn.pruning.saliency import GateSaliency


@pytest.fixture(scope='module', autouse=True)
def device():
    far.extension()


def placed(batch):
    """A batch of any form on the device."""
    if isinstance(batch, torch.Tensor):
        return batch.to('far')
    if isinstance(batch, dict):
        return {key: placed(item) for key, item in batch.items()}
    return type(batch)(map(placed, batch)) if isinstance(batch, (list, tuple)) else batch


def pair(name):
    """A net and a batch, on the device and on the CPU."""
    model, batch = build(name)
    silence(model, trace_channel_graph(model, batch, call_with).groups)
    return (copy.deepcopy(model).to('far'), placed(batch)), (model, batch)


@pytest.mark.parametrize('name', NETS)
def test_what_is_dead_goes_as_on_the_cpu(name):
    plans, states, outputs = [], [], []
    for model, batch in pair(name):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        plans.append(prune_dead_channels(model, [batch], optimizers=[optimizer]).plan)
        states.append({key: value.cpu() for key, value in model.state_dict().items()})
        with torch.no_grad():
            outputs.append([x.cpu() for x in flat(model.eval()(batch))])
    assert plans[0] == plans[1] and plans[0]
    for ours, theirs in (states, outputs):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('criterion', [*RANKING_CRITERIA, 'fisher'])
def test_channels_are_chosen_as_on_the_cpu(criterion):
    chosen = []
    for model, batch in pair('residual' if 'residual' in NETS else next(iter(NETS))):
        graph = trace_channel_graph(model, batch, call_with)
        if criterion == 'fisher':
            saliency = GateSaliency(model, graph.groups, graph.norm_of)
            sum(x.square().sum() for x in flat(model(batch))).backward()
            saliency.add()
            scores = saliency.scores()
        else:
            scores = rank_channels(model, graph.groups, criterion=criterion, seed=0)
        positions = count_positions(model, batch, call_with)
        target = 0.6 * model_cost(model, positions).macs
        how = dict(measure='macs', target=target, min_channels=1, multiples=[1])
        masks, *_ = keep_masks_for_budget(model, graph.groups, scores, positions, **how)
        chosen.append({name: mask.tolist() for name, mask in masks.items()})
    assert chosen[0] == chosen[1] and not all(map(all, chosen[0].values()))
