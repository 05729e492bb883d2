"""PrunePlan: plain data that survives JSON, composes, and refuses what is broken, from anybody."""

import copy
import json
import tracemalloc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import assert_same, build, loss_of, random_plan, snapshot
from spoilt import HUGE, exploding, nested, spoilt

from mmpsbn.pruning import PrunePlan, apply_plan
from mmpsbn.pruning.plan import compose_plans
from mmpsbn.pruning.surgery import is_applied


def trained(name):
    model, batch = build(name)
    optimizer = torch.optim.Adam(model.parameters())
    loss_of(model(batch)).backward()
    optimizer.step()
    return model, batch, optimizer


@st.composite
def plans(draw, shapes=None):
    """A random plan, on the given shapes or its own."""
    if shapes is None:
        dims = st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple)
        names = st.sampled_from(['a.weight', 'a.bias', 'b', 'c.d.weight'])
        shapes = draw(st.dictionaries(names, dims, min_size=1))
    kept = {}
    for name, shape in shapes.items():
        chosen = draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
        kept[name] = {
            d: tuple(sorted(draw(st.sets(st.integers(0, shape[d] - 1), min_size=1))))
            for d in sorted(chosen)
        }
    return PrunePlan(dict(shapes), kept)


def cut(tensor, plan, name):
    for dim, index in plan.kept.get(name, {}).items():
        tensor = tensor.index_select(dim, torch.tensor(index))
    return tensor


@given(plans())
def test_it_survives_json_and_knows_the_shapes_it_leaves(plan):
    data = plan.to_dict()
    before = copy.deepcopy(data)
    assert PrunePlan.from_dict(json.loads(json.dumps(data))) == plan
    assert PrunePlan.from_dict(data) == plan and data == before
    for name, shape in plan.shapes.items():
        assert plan.shape_after(name) == tuple(cut(torch.zeros(shape), plan, name).shape)


@given(st.data())
def test_a_composed_plan_cuts_what_one_after_the_other_cuts(data):
    first = data.draw(plans())
    left = {name: first.shape_after(name) for name in first.shapes}
    names = data.draw(st.sets(st.sampled_from(sorted(left)), min_size=1))
    then = data.draw(plans({**{n: left[n] for n in names}, 'only.second': (4, 3)}))
    before = copy.deepcopy((first, then))
    both = compose_plans(first, then)
    assert (first, then) == before
    for name, shape in {**first.shapes, 'only.second': (4, 3)}.items():
        tensor = torch.arange(float(torch.Size(shape).numel())).view(shape)
        assert torch.equal(cut(tensor, both, name), cut(cut(tensor, first, name), then, name))
        assert both.shapes[name] == shape
    assert PrunePlan.from_dict(both.to_dict()) == both


@settings(max_examples=12)
@given(st.sampled_from(['chain', 'residual', 'concat', 'fpn']), st.integers(0, 1000))
def test_a_composed_plan_on_a_model_is_one_event_after_the_other(name, seed):
    stepwise, batch, optimizer = trained(name)
    at_once, _, its_optimizer = trained(name)
    plan = PrunePlan({}, {})
    for event in range(3):
        step = random_plan(stepwise, batch, seed + event)
        apply_plan(stepwise, step, [optimizer])
        plan = compose_plans(plan, step)
    plan = PrunePlan.from_dict(json.loads(json.dumps(plan.to_dict())))
    apply_plan(at_once, plan, [its_optimizer])
    assert is_applied(at_once, plan)
    assert_same(snapshot(at_once, its_optimizer), snapshot(stepwise, optimizer))


def test_composing_plans_that_do_not_follow_each_other_is_an_error():
    first = PrunePlan({'w': (4, 2)}, {'w': {0: (0, 1, 3)}})
    message = r'w: the second plan starts from shape \(4, 2\), the first leaves \(3, 2\)'
    with pytest.raises(ValueError, match=message):
        compose_plans(first, PrunePlan({'w': (4, 2)}, {'w': {1: (0,)}}))


# --- a stranger's plan ------------------------------------------------------------------------

GOOD = dict(shape=[4, 3, 1, 1], kept={'0': [0, 2], '1': [1]})


def entry(**changes):
    return {'conv.weight': {k: v for k, v in (GOOD | changes).items() if v is not None}}


@pytest.mark.parametrize(
    'data, message',
    [
        (None, 'version must be 1, got None'),
        ('plan', 'version must be 1, got None'),
        (dict(version=2, tensors={}), 'version must be 1, got 2'),
        (dict(version=True, tensors={}), 'version must be 1, got True'),
        (dict(version=HUGE), 'version must be 1, got a int too long to show'),
        (dict(version=1), 'tensors must be a dict, got None'),
        (dict(version=1, tensors=[1]), r'tensors must be a dict, got \[1\]'),
        *(
            (dict(version=1, tensors={name: GOOD}), 'a tensor is named .* not by a string')
            for name in (None, HUGE, ('conv.weight',))
        ),
    ],
)
def test_what_is_no_plan_is_refused(data, message):
    with pytest.raises(ValueError, match=f'prune plan:? {message}'):
        PrunePlan.from_dict(data)


SHAPE, KEPT = 'shape must be a list of ints >= 0, got', 'kept must be a dict, got'
NO_DIM = r'dimension .*: not a dimension of shape \(4, 3, 1, 1\)'
NO_INTS = 'dimension 0: kept indices must be a non-empty list of ints'
NOT_WITHIN = r'dimension 0: kept indices must be ascending, unique and in \[0, 4\)'


@pytest.mark.parametrize(
    'tensors, message',
    [
        ({'conv.weight': 3}, SHAPE),
        *((entry(shape=shape), SHAPE) for shape in (None, [], [4, 3.0], [4, True], [4, -3], '43')),
        *((entry(kept=kept), KEPT) for kept in (None, [[0]])),
        *((entry(kept={dim: [0]}), NO_DIM) for dim in ('4', '-1', 'x', '²', '01', ' 1', None, 0.5)),
        *(
            (entry(kept={'0': index}), NO_INTS)
            for index in ([], None, '01', {}, [0, True], [0.0, 1.0], [0, None], [[0]])
        ),
        *(
            (entry(kept={'0': index}), NOT_WITHIN)
            for index in ([0, 0], [1, 0], [-1, 0], [4], [0, 2, 10**30], [2, -1, 3])
        ),
    ],
)
def test_a_broken_tensor_is_named(tensors, message):
    with pytest.raises(ValueError, match=f'prune plan, conv.weight[,:] {message}'):
        PrunePlan.from_dict(dict(version=1, tensors=tensors))


MODEL, BATCH, OPTIMIZER = trained('residual')
BEFORE = snapshot(MODEL, OPTIMIZER)


@settings(max_examples=400)
@given(spoilt(random_plan(MODEL, BATCH).to_dict()))
def test_a_spoilt_plan_is_a_value_error_or_can_be_applied_and_never_half(data):
    try:
        plan = PrunePlan.from_dict(data)
        restore = apply_plan(MODEL, plan, [OPTIMIZER])
    except ValueError as error:
        assert 'prune plan' in str(error) and len(str(error)) < 1000
    else:
        assert is_applied(MODEL, plan)
        restore()
    assert_same(snapshot(MODEL, OPTIMIZER), BEFORE)


@pytest.mark.parametrize(
    'claim',
    [
        dict(shape=[10**9] * 4, kept={'0': [0]}),
        dict(shape=[2**63 - 1, 2**63 - 1], kept={'1': [7]}),
        dict(shape=[HUGE], kept={'0': [HUGE - 1]}),
        dict(shape=[1] * 1_000_000, kept={'0': [0]}),
        dict(shape=[4, 8], kept={'0': range(10**9)}),
        dict(shape=[4, 8], kept={'0': list(range(1_000_000))}),
        dict(shape=nested(50_000), kept={}),
        dict(shape=exploding(), kept={}),
        dict(shape=[4, 8], kept={'0': exploding()}),
    ],
)
def test_claims_of_any_size_are_refused_without_memory(claim):
    tracemalloc.start()
    with pytest.raises(ValueError, match='prune plan.* fc.weight') as error:
        apply_plan(MODEL, PrunePlan.from_dict(dict(version=1, tensors={'fc.weight': claim})))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e7 and len(str(error.value)) < 1000
    assert_same(snapshot(MODEL, OPTIMIZER), BEFORE)
