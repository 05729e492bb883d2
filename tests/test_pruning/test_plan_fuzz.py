"""Plans from files nobody has checked: a ValueError that says where, and nothing has changed."""

import json
import time
import tracemalloc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import assert_same, build, loss_of, random_plan, snapshot
from spoilt import HUGE, exploding, junk, nested, spoilt

from mmpsbn.pruning import PrunePlan, apply_plan
from mmpsbn.pruning.plan import compose_plans
from mmpsbn.pruning.surgery import is_applied


def trained(name='residual'):
    model, batch = build(name)
    optimizer = torch.optim.Adam(model.parameters())
    loss_of(model(batch)).backward()
    optimizer.step()
    return model, batch, optimizer


MODEL, BATCH, OPTIMIZER = trained()
BEFORE = snapshot(MODEL, OPTIMIZER)
GOOD = random_plan(MODEL, BATCH).to_dict()


def load(data):
    """What a loader does with a plan; the way back if it could be applied."""
    plan = PrunePlan.from_dict(data)
    assert not is_applied(MODEL, plan) or all(
        plan.shape_after(name) == shape for name, shape in plan.shapes.items()
    )
    return plan, apply_plan(MODEL, plan, [OPTIMIZER])


@settings(max_examples=1200)
@given(spoilt(GOOD))
def test_a_spoilt_plan_is_a_value_error_or_can_be_applied_and_never_half(data):
    try:
        plan, restore = load(data)
    except ValueError as error:
        assert 'prune plan' in str(error) and len(str(error)) < 1000
    else:
        tensors = {**dict(MODEL.named_parameters()), **dict(MODEL.named_buffers())}
        for name in plan.kept:
            assert tuple(tensors[name].shape) == plan.shape_after(name)
        restore()
    assert_same(snapshot(MODEL, OPTIMIZER), BEFORE)


@settings(max_examples=300)
@given(junk)
def test_anything_at_all_in_place_of_a_plan(data):
    with pytest.raises(ValueError, match='prune plan version must be 1, got '):
        PrunePlan.from_dict(data)


@settings(max_examples=300)
@given(spoilt(GOOD['tensors']['fc.weight']))
def test_the_message_names_the_tensor_or_the_version(entry):
    try:
        PrunePlan.from_dict(dict(version=1, tensors={'fc.weight': entry}))
    except ValueError as error:
        assert str(error).startswith('prune plan, fc.weight')


@pytest.mark.parametrize(
    'entry',
    [
        dict(shape=[10**9] * 4, kept={'0': [0]}),
        dict(shape=[10**9], kept={'0': [10**9 - 1]}),
        dict(shape=[2**63 - 1, 2**63 - 1], kept={'1': [7]}),
        dict(shape=[2**63], kept={'0': [7]}),
        dict(shape=[HUGE], kept={'0': [HUGE - 1]}),
        dict(shape=[1] * 1_000_000, kept={'0': [0]}),
        dict(shape=[1] * 3_000, kept={str(dim): [0] for dim in range(3_000)}),
        dict(shape=[4, 8], kept={'0': range(10**9)}),
        dict(shape=[4, 8], kept={'0': [0] * 1_000_000}),
        dict(shape=[4, 8], kept={'0': list(range(1_000_000))}),
        dict(shape=[4, 8], kept={str(dim): [0] for dim in range(200_000)}),
        dict(shape=nested(50_000), kept={}),
        dict(shape=exploding(), kept={}),
        dict(shape=[4, 8], kept=exploding()),
        dict(shape=[4, 8], kept={'0': exploding()}),
        dict(shape='x' * 10_000_000, kept={}),
    ],
)
def test_claims_of_any_size_are_refused_fast_and_without_memory(entry):
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(ValueError, match='prune plan.* fc.weight') as error:
        load(dict(version=1, tensors={'fc.weight': entry}))
    seconds = time.perf_counter() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 2 and peak < 2e7 and len(str(error.value)) < 1000
    assert_same(snapshot(MODEL, OPTIMIZER), BEFORE)


def test_many_tensors_are_refused_fast():
    tensors = {f't{i}': dict(shape=[1], kept={'0': [0]}) for i in range(100_000)}
    start = time.perf_counter()
    with pytest.raises(ValueError, match='the prune plan names t0, which the model lacks'):
        load(dict(version=1, tensors=tensors))
    assert time.perf_counter() - start < 5
    assert_same(snapshot(MODEL, OPTIMIZER), BEFORE)


@settings(max_examples=100)
@given(
    st.sampled_from(['chain', 'residual', 'concat', 'fpn']),
    st.lists(st.integers(0, 10**6), min_size=1, max_size=4),
)
def test_random_valid_plans_round_trip_and_compose(name, seeds):
    stepwise, batch, optimizer = trained(name)
    at_once, _, its_optimizer = trained(name)
    plan = PrunePlan({}, {})
    for seed in seeds:
        step = random_plan(stepwise, batch, seed)
        data = json.loads(json.dumps(step.to_dict()))
        assert PrunePlan.from_dict(data) == step and PrunePlan.from_dict(step.to_dict()) == step
        apply_plan(stepwise, step, [optimizer])
        plan = compose_plans(plan, step)
    apply_plan(at_once, PrunePlan.from_dict(plan.to_dict()), [its_optimizer])
    assert is_applied(at_once, plan)
    assert_same(snapshot(at_once, its_optimizer), snapshot(stepwise, optimizer))


@pytest.mark.parametrize(
    'name', [None, 3, HUGE, ('fc.weight',)], ids=['None', 'int', 'huge', 'tuple']
)
def test_a_name_that_is_no_string_is_refused(name):
    with pytest.raises(ValueError, match='prune plan: a tensor is named .* not by a string'):
        PrunePlan.from_dict(dict(version=1, tensors={name: GOOD['tensors']['fc.weight']}))
