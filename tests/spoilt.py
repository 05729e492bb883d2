"""Plain data with anything at all in random places, for fuzzing what reads files."""

import copy

from hypothesis import strategies as st

HUGE = 10**5000  # too long to print, for Python too


def nested(depth=5000):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def exploding(depth=60):
    """A list of a few hundred bytes that would print as 2**60 brackets."""
    value = []
    for _ in range(depth):
        value = [value, value]
    return value


junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 20),
    st.sampled_from([2**31, 2**63 - 1, 2**63, -(2**63), 10**30, HUGE, -HUGE]),
    st.floats(),
    st.text(max_size=4),
    st.binary(max_size=4),
    st.lists(st.integers(-2, 9), max_size=9),
    st.lists(st.one_of(st.integers(0, 5), st.floats(), st.booleans(), st.none()), max_size=5),
    st.dictionaries(st.text('0123-', max_size=2), st.lists(st.integers(-1, 9)), max_size=3),
    st.builds(nested),
    st.builds(exploding),
    st.builds(lambda: [1] * 100_000),
    st.builds(lambda: list(range(100_000))),
)
keys = st.one_of(
    st.sampled_from(['version', 'tensors', 'shape', 'kept', '0', '1', '4', '-1', '00', '²']),
    st.sampled_from([0, 1, None, True, 0.0, (), ('0',)]),
    st.sampled_from(['stem.weight', 'fc.bias', 'no.such.layer', '', '.', 'stem..weight', 'stem']),
    st.text(max_size=3),
)


@st.composite
def spoilt(draw, data):
    """A copy of nested plain data with one to three changes at random places."""
    data = copy.deepcopy(data)
    for _ in range(draw(st.integers(1, 3))):
        place = data
        while True:
            places = list(place) if isinstance(place, dict) else range(len(place))
            inner = [k for k in places if isinstance(place[k], (dict, list)) and place[k]]
            if not inner or not draw(st.integers(0, 3)):
                break
            place = place[draw(st.sampled_from(inner))]
        how = draw(st.sampled_from(['replace', 'add', 'delete', 'repeat', 'swap']))
        key = draw(st.sampled_from(list(places))) if places else None
        if key is None or how == 'add':
            if isinstance(place, dict):
                place[draw(keys)] = draw(junk)
            else:
                place.insert(draw(st.integers(0, len(place))), draw(junk))
        elif how == 'replace':
            place[key] = draw(junk)
        elif how == 'delete':
            del place[key]
        else:
            other = draw(st.sampled_from(list(places)))
            place[key], place[other] = (
                (place[other], place[key]) if how == 'swap' else (place[other], place[other])
            )
    return data
