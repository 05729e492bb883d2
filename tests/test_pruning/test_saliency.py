"""Gates on channels, against gates that are there: hooks that multiply by m."""

from contextlib import contextmanager

import pytest
import torch
from nets import NETS, build, loss_of, trace
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from mmpsbn.layers import alpha_of
from mmpsbn.pruning.forward import is_conv_or_linear
from mmpsbn.pruning.saliency import Gates, GateSaliency, gate_scores


@contextmanager
def with_gates(model, graph):
    """A gate behind each norm layer and each layer that no norm follows, by group."""
    gates, handles = {}, []
    for name, group in graph.groups.items():
        gate = torch.ones(group.channels, dtype=torch.float64, requires_grad=True)
        gates[name] = gate
        through = {member.layer for member in group.channelwise}
        for member in (*group.writers, *group.channelwise):
            layer = model.get_submodule(member.layer)
            norms = graph.norm_of.get(member.layer, ())
            if norms and set(norms) <= through:
                continue
            if not (is_conv_or_linear(layer) or isinstance(layer, (_NormBase, nn.GroupNorm))):
                continue

            def multiply(layer, args, output, *, member=member, gate=gate):
                factor = torch.ones(member.size, dtype=torch.float64)
                factor = factor.index_put(
                    (torch.tensor(member.index),), gate[torch.tensor(member.channel)]
                )
                last = isinstance(layer, nn.Linear)
                return output * factor.view(-1) if last else output * factor.view(-1, 1, 1)

            handles.append(layer.register_forward_hook(multiply))
    yield gates
    for handle in handles:
        handle.remove()


def squares_with_gates(model, graph, batch):
    """(dL/dm)^2."""
    with with_gates(model, graph) as gates:
        loss_of(model(batch)).backward()
    return {name: gate.grad.square() for name, gate in gates.items()}


def snap_with_gates(model, graph, batch):
    """dL/dm."""
    with with_gates(model, graph) as gates:
        slopes = torch.autograd.grad(loss_of(model(batch)), list(gates.values()))
    return dict(zip(gates, slopes))


def cropit_with_gates(model, graph, batch):
    """H g, row by row of the Hessian of all gates."""
    with with_gates(model, graph) as gates:
        slopes = torch.autograd.grad(loss_of(model(batch)), list(gates.values()), create_graph=True)
    g = torch.cat(slopes)
    rows = []
    for entry in g:
        row = torch.autograd.grad(entry, list(gates.values()), retain_graph=True)
        rows.append(torch.cat(row))
    product = torch.stack(rows) @ g.detach()
    return dict(zip(gates, product.split([len(gate) for gate in gates.values()])))


@pytest.mark.parametrize('name', NETS)
def test_two_steps_sum_the_squares_of_the_gates_gradients(name):
    model, batch = build(name)
    graph = trace(model, batch)
    saliency = GateSaliency(model, graph.groups, graph.norm_of)
    expected = {}
    for k in (1, 2):
        squares = squares_with_gates(model, graph, k * batch)
        expected = {n: s + expected.get(n, 0) for n, s in squares.items()}
        model.zero_grad()
        loss_of(model(k * batch)).backward()
        saliency.add()
    scores = saliency.scores()
    assert scores.keys() == graph.groups.keys() and saliency.steps == 2
    for group in graph.groups:
        torch.testing.assert_close(scores[group], expected[group], rtol=1e-9, atol=1e-9)
        assert scores[group].sum() > 0


@pytest.mark.parametrize('name', ['chain', 'residual', 'psbn_chain'])
@pytest.mark.parametrize(
    'score, reference', [('snap', snap_with_gates), ('cropit', cropit_with_gates)]
)
def test_scores_of_gates_sum_over_batches_before_the_absolute_value(name, score, reference):
    model, batch = build(name)
    graph = trace(model, batch)
    model.train()
    expected, losses = {}, []
    for k in (1, -2):
        found = reference(model, graph, k * batch)
        expected = {n: s + expected.get(n, 0) for n, s in found.items()}
        losses.append(loss_of(model(k * batch)))
    scores, left_out = gate_scores(
        model, graph.groups, graph.norm_of, losses, score=score, join=lambda x: 2 * x
    )
    assert left_out == 0
    assert scores.keys() == graph.groups.keys()
    for group, of_group in scores.items():
        assert of_group.std() > 0
        torch.testing.assert_close(of_group, 2 * expected[group].abs(), rtol=1e-8, atol=1e-10)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize('score', ['snap', 'cropit'])
@pytest.mark.parametrize('bad', [torch.nan, torch.inf])
def test_batches_with_losses_that_are_no_numbers_are_counted_and_left_out(score, bad):
    model, batch = build('chain')
    graph = trace(model, batch)

    def scores_of(*factors):
        losses = [factor * loss_of(model(batch)) for factor in factors]
        return gate_scores(
            model, graph.groups, graph.norm_of, losses, score=score, join=lambda x: 2 * x
        )

    good, found = scores_of(1, 0.5), scores_of(1, bad, 0.5)
    assert (good[1], found[1]) == (0, 2)  # of two ranks
    for name, values in good[0].items():
        assert values.isfinite().all() and torch.equal(found[0][name], values)


def test_gradients_that_are_there_stay():
    model, batch = build('chain')
    graph = trace(model, batch)
    loss_of(model(batch)).backward()
    before = [(p.grad, p.grad.clone()) for p in model.parameters()]
    losses = [loss_of(model(2 * batch))]
    gate_scores(model, graph.groups, graph.norm_of, losses, score='snap', join=lambda x: x)
    for parameter, (gradient, values) in zip(model.parameters(), before):
        assert parameter.grad is gradient and torch.equal(gradient, values)


@pytest.mark.parametrize('gated', ['all', 'those in the checkpoint'])
def test_reentrant_checkpoints_change_no_score_and_are_refused_where_they_would(gated):
    """The checkpoint is all but the first layer, which has a gate of its own or none."""
    model, batch = build('chain')
    graph = trace(model, batch)
    first, *others = graph.groups
    groups = graph.groups if gated == 'all' else {name: graph.groups[name] for name in others}

    def scores_of(outputs, score):
        return gate_scores(
            model, groups, graph.norm_of, [loss_of(outputs)], score=score, join=lambda x: x
        )[0]

    def in_checkpoint():
        first, *rest = model.features
        rest = nn.Sequential(*rest, nn.Flatten(), model.classifier)
        return checkpoint(rest, first(batch), use_reentrant=True)

    plain = scores_of(model(batch), 'snap')
    for name, values in scores_of(in_checkpoint(), 'snap').items():
        assert values.isfinite().all() and values.any()
        torch.testing.assert_close(values, plain[name], rtol=1e-12, atol=0)
    with pytest.raises(RuntimeError, match='heckpoint'):
        scores_of(in_checkpoint(), 'cropit')


class Once(torch.autograd.Function):
    """x^2, without a second derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


def test_an_operation_without_a_second_derivative_is_refused():
    model, batch = build('chain')
    graph = trace(model, batch)

    def scores_of(score):
        loss = loss_of(model.classifier(Once.apply(model.features(batch)).flatten(1)))
        return gate_scores(
            model, graph.groups, graph.norm_of, [loss], score=score, join=lambda x: x
        )

    assert all(values.isfinite().all() for values in scores_of('snap')[0].values())
    with pytest.raises(RuntimeError, match='differentiate twice'):
        scores_of('cropit')


def test_within_a_step_a_psbn_bias_counts_as_what_the_layer_adds():
    model, batch = build('psbn_chain')
    graph = trace(model, batch)
    seen = []
    for in_step in (False, True):
        saliency = GateSaliency(model, graph.groups, graph.norm_of)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        model.zero_grad()
        loss_of(model(batch)).backward()
        if in_step:
            optimizer.register_step_pre_hook(
                lambda o, *_, s=saliency: s.add(shifted=set(o.param_groups[0]['params']))
            )
            optimizer.step()
        else:
            saliency.add()
        seen.append(saliency.scores())
    assert any(alpha_of(p) for p in model.parameters())
    for name in graph.groups:
        torch.testing.assert_close(seen[0][name], seen[1][name], rtol=1e-9, atol=1e-12)


def test_a_step_with_a_gradient_that_is_no_number_counts_for_nothing():
    model, batch = build('chain')
    graph = trace(model, batch)
    saliency = GateSaliency(model, graph.groups, graph.norm_of)
    loss_of(model(batch)).backward()
    saliency.add()
    before = saliency.scores()
    next(p for p in model.parameters() if p.dim() == 1).grad[0] = torch.nan
    saliency.add()
    assert saliency.steps == 1
    assert all(torch.equal(before[name], score) for name, score in saliency.scores().items())


def test_a_group_with_a_frozen_gate_is_kept():
    model, batch = build('residual')
    graph = trace(model, batch)
    model.train()
    first, *others = graph.groups
    for member in (*graph.groups[first].writers, *graph.groups[first].channelwise):
        model.get_submodule(member.layer).requires_grad_(False)
    saliency = GateSaliency(model, graph.groups, graph.norm_of)
    loss_of(model(batch)).backward()
    saliency.add()
    scores = saliency.scores()
    assert scores[first].isinf().all() and all(scores[name].isfinite().all() for name in others)


def test_gates_on_outputs_in_half_precision_add_up_in_full():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1))
    graph = trace(net.double(), torch.ones(1, 1, 4, 4, dtype=torch.float64))
    net.float()[1].requires_grad_(False)
    net[1].register_forward_hook(lambda norm, args, output: torch.ones_like(output).half())
    gates = Gates(net, graph.groups, graph.norm_of)
    read = []
    net[2].register_forward_pre_hook(lambda layer, args: read.append(args[0]) or (args[0].float(),))
    net(torch.ones(2, 1, 200, 200))
    assert read[0].dtype == torch.float16
    slope = gates.slope(read[0].float().sum())
    assert slope.tolist() == [80_000.0] * 2  # half precision ends at 65,504
    gates.close()


@pytest.mark.parametrize('fixed', ['frozen', 'no scale', 'frozen, by the batch'])
def test_of_a_norm_that_does_not_train_the_output_has_the_gate(fixed):
    """Like one whose scale and shift train: what they add, a constant too, counts in both."""
    model, batch = build('chain')
    graph = trace(model, batch)
    first, *others = graph.groups
    (norm,) = graph.norm_of[graph.groups[first].writers[0].layer]
    norm = model.get_submodule(norm)
    if fixed == 'no scale':
        norm.weight.data.fill_(1)
        norm.bias.data.fill_(0)
    model.train(fixed == 'frozen, by the batch')
    expected = squares_with_gates(model, graph, batch)
    plain = [(p, p.grad) for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    if fixed == 'no scale':
        norm.weight = norm.bias = None
    norm.requires_grad_(False)
    saliency = GateSaliency(model, graph.groups, graph.norm_of)
    for _ in range(2):
        model.zero_grad()
        loss_of(model(batch)).backward()
        saliency.add()
        saliency.forget()
    assert not saliency.unknown and saliency.steps == 2
    for name, score in saliency.scores().items():
        torch.testing.assert_close(score, 2 * expected[name], rtol=1e-9, atol=1e-9)
    # and nothing else changes: other gradients, and the model when the watch is over
    for parameter, gradient in plain:
        if parameter.requires_grad and any(parameter is p for p in model.parameters()):
            assert torch.equal(parameter.grad, gradient)
    assert norm._forward_hooks and trace(model, batch).groups.keys() == graph.groups.keys()
    saliency.close()
    assert not norm._forward_hooks


@pytest.mark.parametrize(
    'score, reference', [('snap', snap_with_gates), ('cropit', cropit_with_gates)]
)
def test_passes_of_their_own_see_the_gate_of_a_frozen_norm(score, reference):
    model, batch = build('chain')
    graph = trace(model, batch)
    model.eval()
    expected = reference(model, graph, batch)
    for norms in graph.norm_of.values():
        for norm in norms:
            model.get_submodule(norm).requires_grad_(False)
    losses = (loss_of(model(k * batch)) for k in (1,))
    scores, _ = gate_scores(
        model, graph.groups, graph.norm_of, losses, score=score, join=lambda x: x
    )
    for name, values in scores.items():
        torch.testing.assert_close(values, expected[name].abs(), rtol=1e-8, atol=1e-10)
    assert not any(module._forward_hooks for module in model.modules())


def test_sums_are_kept_by_group_and_not_shared_with_the_scores():
    model, batch = build('residual')
    graph = trace(model, batch)
    saliency = GateSaliency(model, graph.groups, graph.norm_of)
    loss_of(model(batch)).backward()
    saliency.add()
    scores = saliency.scores()
    first, *others = graph.groups
    some = GateSaliency(model, {n: graph.groups[n] for n in others}, graph.norm_of)
    some.restore(saliency.state())
    assert some.seen == some.steps == 1
    for name, score in some.scores().items():
        assert torch.equal(score, scores[name])
        score.zero_()
        assert torch.equal(some.scores()[name], scores[name])
