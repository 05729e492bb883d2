"""PrunePlan: plain data that survives JSON, composes, and refuses what is broken."""

import copy
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import assert_same, build, random_plan

from mmpsbn.pruning import PrunePlan, apply_plan
from mmpsbn.pruning.plan import compose_plans


@st.composite
def plans(draw, shapes=None):
    """A random plan, on the given shapes or its own."""
    if shapes is None:
        dims = st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple)
        shapes = draw(
            st.dictionaries(
                st.sampled_from(['a.weight', 'a.bias', 'b', 'c.d.weight']), dims, min_size=1
            )
        )
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
def test_json_round_trip(plan):
    data = plan.to_dict()
    before = copy.deepcopy(data)
    assert PrunePlan.from_dict(json.loads(json.dumps(data))) == plan
    assert PrunePlan.from_dict(data) == plan and data == before


@given(plans())
def test_shape_after_is_the_shape_of_what_is_kept(plan):
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
    stepwise, batch = build(name)
    at_once = copy.deepcopy(stepwise)
    plan = PrunePlan({}, {})
    for event in range(3):
        step = random_plan(stepwise, batch, seed + event)
        apply_plan(stepwise, step)
        plan = compose_plans(plan, step)
    apply_plan(at_once, PrunePlan.from_dict(json.loads(json.dumps(plan.to_dict()))))
    assert_same(dict(at_once.state_dict()), dict(stepwise.state_dict()))


def test_composing_plans_that_do_not_follow_each_other_is_an_error():
    first = PrunePlan({'w': (4, 2)}, {'w': {0: (0, 1, 3)}})
    with pytest.raises(
        ValueError,
        match=r'w: the second plan starts from shape \(4, 2\), the first leaves \(3, 2\)',
    ):
        compose_plans(first, PrunePlan({'w': (4, 2)}, {'w': {1: (0,)}}))


GOOD = dict(
    version=1, tensors={'conv.weight': dict(shape=[4, 3, 1, 1], kept={'0': [0, 2], '1': [1]})}
)


def broken(change):
    data = copy.deepcopy(GOOD)
    change(data)
    return data


def tensor(data):
    return data['tensors']['conv.weight']


@pytest.mark.parametrize(
    'data, message',
    [
        (None, 'version must be 1, got None'),
        ([], 'version must be 1, got None'),
        ('plan', 'version must be 1'),
        ({}, 'version must be 1, got None'),
        (broken(lambda d: d.update(version=2)), 'version must be 1, got 2'),
        (broken(lambda d: d.update(version='1')), "version must be 1, got '1'"),
        (broken(lambda d: d.update(version=True)), 'version must be 1, got True'),
        (dict(version=1), 'tensors must be a dict, got None'),
        (broken(lambda d: d.update(tensors=[1])), r'tensors must be a dict, got \[1\]'),
        (
            broken(lambda d: d['tensors'].update({'conv.weight': 3})),
            'conv.weight: shape must be a list of ints',
        ),
        (broken(lambda d: tensor(d).pop('shape')), 'conv.weight: shape must be .* got None'),
        (broken(lambda d: tensor(d).update(shape=[])), r'conv.weight: shape must be .* got \[\]'),
        (
            broken(lambda d: tensor(d).update(shape=[4, 3.0])),
            r'conv.weight: shape must be .* got \[4, 3.0\]',
        ),
        (broken(lambda d: tensor(d).update(shape=[4, True])), 'conv.weight: shape must be'),
        (broken(lambda d: tensor(d).update(shape=[4, -3])), 'conv.weight: shape must be'),
        (broken(lambda d: tensor(d).update(shape='43')), 'conv.weight: shape must be'),
        (broken(lambda d: tensor(d).pop('kept')), 'conv.weight: kept must be a dict, got None'),
        (broken(lambda d: tensor(d).update(kept=[[0]])), 'conv.weight: kept must be a dict'),
        *[
            (
                broken(lambda d, dim=dim: tensor(d).update(kept={dim: [0]})),
                r'conv.weight, dimension .*: not a dimension of shape \(4, 3, 1, 1\)',
            )
            for dim in ('4', '-1', 'x', '', '²', '01', ' 1', '1.0', None, 0.5)
        ],
        *[
            (
                broken(lambda d, index=index: tensor(d)['kept'].update({'0': index})),
                'dimension 0: kept indices must be a non-empty list of ints',
            )
            for index in (
                [],
                None,
                3,
                'ab',
                '01',
                {},
                [0, True],
                [False, 2],
                [0.0, 1.0],
                [0, None],
                [[0]],
                [0, '1'],
            )
        ],
        *[
            (
                broken(lambda d, index=index: tensor(d)['kept'].update({'0': index})),
                r'dimension 0: .* ascending, unique and in \[0, 4\)',
            )
            for index in (
                [0, 0],
                [1, 0],
                [0, 1, 1, 2],
                [-1, 0],
                [4],
                [0, 2, 10**30],
                [2, -1, 3],
                [0, 9, 3],
            )
        ],
    ],
)
def test_broken_data_is_a_value_error_that_says_where(data, message):
    with pytest.raises(ValueError, match=message):
        PrunePlan.from_dict(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.floats() | st.text(max_size=3),
    lambda v: (
        st.lists(v, max_size=3)
        | st.dictionaries(
            st.sampled_from(['shape', 'kept', '0', '1', 'x', 'version', 'tensors']), v, max_size=3
        )
    ),
    max_leaves=8,
)


@settings(max_examples=300)
@given(json_values, st.sampled_from(['all', 'tensors', 'entry', 'shape', 'kept', 'index']))
def test_no_data_raises_anything_but_a_value_error(value, place):
    data = copy.deepcopy(GOOD)
    if place == 'all':
        data = value
    elif place == 'tensors':
        data['tensors'] = value
    elif place == 'entry':
        data['tensors']['conv.weight'] = value
    elif place == 'index':
        tensor(data)['kept']['0'] = value
    else:
        tensor(data)[place] = value
    try:
        plan = PrunePlan.from_dict(data)
    except ValueError:
        return
    for name, shape in plan.shapes.items():  # accepted: then it can be applied
        assert all(
            0 < kept <= size or kept == size == 0
            for kept, size in zip(plan.shape_after(name), shape)
        )
        assert cut(torch.zeros(shape), plan, name).shape == plan.shape_after(name)
