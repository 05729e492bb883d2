"""What an operation on tensors does to the labels its inputs carry; layers are in ``layer_rules``.

A rule is ``rule(trace, op)`` with a :class:`~.channel_trace.ChannelTrace` and the
:class:`~.tracing.Op` that ran. Names are those of ATen without namespace, overload and the
underscore of in-place variants. A rule is sound if what it does not say, it pins: labels that are
lost without a pin would let channels go that somebody still counts on.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .size_roles import follows_a_width
from .union_find import FIXED, Vector

# memory that is not computed from its arguments
FACTORIES = set(
    'empty zeros ones full empty_like zeros_like ones_like full_like empty_strided new_empty '
    'new_zeros new_ones new_full new_empty_strided'.split()
)

RULES: dict[str, Callable] = {}


def rule(names: str) -> Callable:
    """Register a rule for operations, their names apart by spaces."""

    def register(function: Callable) -> Callable:
        RULES.update(dict.fromkeys(names.split(), function))
        return function

    return register


# --- element by element ------------------------------------------------------------


@rule(
    'clone _to_copy copy detach alias lift_fresh contiguous fill zero zeros_like '
    'ones_like full_like empty_like masked_fill threshold relu leaky_relu rrelu '
    '_prelu_kernel elu celu selu gelu silu mish hardtanh hardsigmoid hardswish softplus '
    'softshrink hardshrink addcmul'
)
def join_pointwise(trace, op) -> None:
    """Inputs that are broadcast together have the same channels."""
    shape = op.outputs[0].shape
    axes = {}
    for dim, size in enumerate(shape):
        if size == 1:
            continue
        meeting = []
        for t in op.inputs:
            own = dim - len(shape) + t.dim()
            if own >= 0 and t.size(own) == size:
                meeting.append(trace.axes(t).get(own))
        labelled = [vector for vector in meeting if vector is not None]
        for vector in labelled:
            trace.join(labelled[0], vector, op.name)
        if labelled:
            axes[dim] = labelled[0]
            if len(labelled) < len(meeting):
                trace.pin_labels(labelled[0], f'{op.name} with a tensor of fixed size')
    for output in op.outputs:
        trace.put(output, axes)


# --- along dimensions ---------------------------------------------------------------


@rule(
    'mean sum amax amin max min argmax argmin var var_mean std std_mean any all prod '
    'logsumexp linalg_vector_norm norm median _softmax _log_softmax cumsum cumprod cummax '
    'cummin sort argsort topk flip roll select unbind narrow kthvalue'
)
def _along(trace, op) -> None:
    """Mixes or picks positions along some dimensions; the others pass."""
    x, *others = op.inputs
    dims = op.args.get('dim', op.args.get('dims', 0 if op.name == 'unbind' else None))
    if others or dims is None or dims == []:  # a default is not in the arguments: all, to be safe
        dims = range(x.dim())
    dims = {d % max(x.dim(), 1) for d in ([dims] if isinstance(dims, int) else dims)}
    trace.pin(x, f'{op.name} over channels', dims=list(dims))
    for other in others:
        trace.pin(other, f'no rule for {op.name} of several tensors')
    rest = [d for d in range(x.dim()) if d not in dims]
    for output in op.outputs:
        kept = output.dim() == x.dim()  # as with keepdim, and a softmax
        place = dict(zip(rest, rest if kept else range(len(rest))))
        trace.put(output, {place[d]: v for d, v in trace.axes(x).items() if d in place})


@rule('slice')
def _slice(trace, op) -> None:
    x, output = op.inputs[0], op.outputs[0]
    if x.shape == output.shape:  # x[:], which models write as a copy
        trace.put(output, trace.axes(x))
        trace.same_writer(output, x)
        return
    dim = op.args.get('dim', 0) % x.dim()
    trace.pin(x, 'a slice of fixed size', dims=[dim])
    trace.put(output, {d: v for d, v in trace.axes(x).items() if d != dim})


@rule('split split_with_sizes')
def _split(trace, op) -> None:
    x, pieces = op.inputs[0], op.outputs
    dim = op.args.get('dim', 0) % x.dim()
    vector = trace.axes(x).get(dim)
    sizes = {piece.size(dim) for piece in pieces}
    # The sizes of a split stand in the code of the model, those of a chunk follow the width, as an
    # attribute of the module may: then channels can go, the k-th of every piece together.
    equal = len(sizes) == 1 and (
        trace.chunking or (trace.running is not None and follows_a_width(trace.running, *sizes))
    )
    if vector is not None and not equal:
        trace.pin_labels(vector, 'a split into fixed sizes')
    start = 0
    for piece in pieces:
        axes = {d: v for d, v in trace.axes(x).items() if d != dim}
        if vector is not None and equal:
            axes[dim] = vector[start : start + piece.size(dim)]
            trace.join(vector[: piece.size(dim)], axes[dim], 'chunk')
        start += piece.size(dim)
        trace.put(piece, axes)


@rule('index_select')
def _index_select(trace, op) -> None:
    x, dim = op.inputs[0], op.args['dim'] % op.inputs[0].dim()
    trace.pin(x, 'channels picked by index', dims=[dim])
    trace.pin(op.args['index'], 'indices that depend on channels')
    trace.put(op.outputs[0], {d: v for d, v in trace.axes(x).items() if d != dim})


def _leading(indices: list) -> int | None:
    """How many leading dimensions a list of indices picks from, if it is one tensor."""
    if len(indices) != 1 or indices[0] is None:
        return None
    # a mask picks from as many dimensions as it has, a list of positions from the first one
    return indices[0].dim() if indices[0].dtype in (torch.bool, torch.uint8) else 1


def _pin_indices(trace, op) -> None:
    for index in op.args['indices']:
        if index is not None:
            trace.pin(index, 'indices that depend on channels')


@rule('index')
def _index(trace, op) -> None:
    x, output = op.inputs[0], op.outputs[0]
    _pin_indices(trace, op)
    leading = _leading(op.args['indices'])
    if leading is None:
        trace.pin(x, 'channels picked by index')
        return
    trace.pin(x, 'channels picked by index', dims=list(range(leading)))
    shift = output.dim() - x.dim()
    trace.put(output, {d + shift: v for d, v in trace.axes(x).items() if d >= leading})


@rule('index_put')
def _index_put(trace, op) -> None:
    """``x[rows] = values``."""
    x, values = op.inputs[0], op.args['values']
    _pin_indices(trace, op)
    leading = _leading(op.args['indices'])
    axes = dict(trace.axes(x))
    if leading is None or trace.axes(x).keys() & set(range(leading)):
        trace.pin(x, 'channels put by index')
        trace.pin(values, 'channels put by index')
        return
    for d, vector in trace.axes(values).items():
        own = d - values.dim() + x.dim()
        if own < leading:
            trace.pin_labels(vector, 'channels put by index')
        elif own in axes:
            trace.join(axes[own], vector, 'index_put')
        else:
            axes[own] = vector
    for output in (x, *op.outputs):  # x itself too: in place it is what goes on being read
        trace.put(output, axes)


# --- joining tensors -----------------------------------------------------------------


def _met(trace, vectors: list[Vector | None], reason: str) -> Vector:
    """The labels of a dimension that several tensors have in common."""
    first = next(filter(None, vectors))
    for vector in vectors:
        trace.join(first, vector, reason)
    return first


@rule('cat')
def _cat(trace, op) -> None:
    output = op.outputs[0]
    pieces = [t for t in op.inputs if t.dim() == output.dim()]  # cat ignores an empty 1-d tensor
    dim = op.args.get('dim', 0) % output.dim()
    axes = {}
    for d in range(output.dim()):
        vectors = [trace.axes(t).get(d) for t in pieces]
        if not any(vectors):
            continue
        if d != dim:
            axes[d] = _met(trace, vectors, 'cat with a tensor of fixed size')
        else:  # what has no labels keeps its place among those that have
            parts = [v or (FIXED,) * t.size(d) for t, v in zip(pieces, vectors)]
            axes[d] = tuple(label for part in parts for label in part)
    trace.put(output, axes)


@rule('stack')
def _stack(trace, op) -> None:
    output = op.outputs[0]
    dim = op.args.get('dim', 0) % output.dim()
    axes = {}
    for d in range(op.inputs[0].dim()):
        vectors = [trace.axes(t).get(d) for t in op.inputs]
        if any(vectors):
            axes[d + (d >= dim)] = _met(trace, vectors, 'stack with a tensor of fixed size')
    trace.put(output, axes)


# --- shapes ---------------------------------------------------------------------------


def _segments(old: list[int], new: list[int]):
    """Pairs of runs of dimensions, (in the old shape, in the new), of equal extent."""
    i = j = 0
    while i < len(old) or j < len(new):
        rows, cols = [], []
        have = want = 1
        while not (rows or cols) or have != want:
            if j >= len(new) or (i < len(old) and have <= want):
                rows.append(i)
                have *= old[i]
                i += 1
            else:
                cols.append(j)
                want *= new[j]
                j += 1
        yield rows, cols


@rule('view _unsafe_view reshape squeeze unsqueeze _reshape_alias flatten')
def _reshape(trace, op) -> None:
    """Labels move with their positions. Where one dimension becomes several, positions that
    differ only in the outer ones go together, as in a channel shuffle."""
    x, output = op.inputs[0], op.outputs[0]
    old_dims = [d for d, size in enumerate(x.shape) if size > 1]
    new_dims = [d for d, size in enumerate(output.shape) if size > 1]
    axes = {}  # dimensions of size 1 carry nothing and belong nowhere, so they are left out
    for rows, cols in _segments([x.size(d) for d in old_dims], [output.size(d) for d in new_dims]):
        rows, cols = [old_dims[i] for i in rows], [new_dims[j] for j in cols]
        labelled = [d for d in rows if d in trace.axes(x)]
        if len(rows) == len(cols) == 1 and labelled:
            axes[cols[0]] = trace.axes(x)[rows[0]]
        elif len(labelled) > 1:
            trace.pin(x, 'a reshape that joins dimensions', dims=labelled)
        elif labelled:
            axes |= _moved(trace, x, output, rows, cols, labelled[0])
    trace.put(output, axes)
    trace.same_writer(output, x)


def _moved(trace, x: Tensor, output: Tensor, rows: list, cols: list, dim: int) -> dict[int, Vector]:
    sizes = [x.size(d) for d in rows]
    shape = [-1 if d == dim else 1 for d in rows]
    grid = torch.tensor(trace.axes(x)[dim]).view(shape).expand(sizes)
    grid = grid.reshape([output.size(d) for d in cols])
    # Each position of the output now shows the label it came from. One new dimension can carry
    # them: the innermost along which they vary. (n, c, h, w) -> (n, g, c / g, h, w) of a channel
    # shuffle: c / g does, and the labels in one column, over g, become one unit.
    varying = [k for k in range(len(cols)) if (grid != grid.narrow(k, 0, 1)).any()]
    if not varying:
        trace.pin(x, 'a reshape of one channel', dims=[dim])
        return {}
    inner = varying[-1]
    rows_of = grid.movedim(inner, -1).reshape(-1, grid.size(inner))
    vector, *others = dict.fromkeys(map(tuple, rows_of.tolist()))
    for other in others:
        trace.join(vector, other, 'a reshape into fixed sizes')
    return {cols[inner]: vector}


@rule('permute transpose t')
def _permute(trace, op) -> None:
    x, output = op.inputs[0], op.outputs[0]
    order = list(range(x.dim()))
    if op.name == 'permute':
        order = [d % x.dim() for d in op.args['dims']]
    elif x.dim() > 1:
        a, b = (0, 1) if op.name == 't' else (op.args['dim0'], op.args['dim1'])
        order[a], order[b] = order[b], order[a]
    axes = trace.axes(x)
    trace.put(output, {new: axes[old] for new, old in enumerate(order) if old in axes})
    trace.same_writer(output, x)


@rule('expand expand_as repeat')
def _repeat(trace, op) -> None:
    x, output = op.inputs[0], op.outputs[0]
    shift = output.dim() - x.dim()  # new dimensions come in front
    times = {d: output.size(d + shift) // x.size(d) for d in trace.axes(x)}
    trace.put(output, {d + shift: v * times[d] for d, v in trace.axes(x).items()})


@rule('constant_pad_nd')
def _pad(trace, op) -> None:
    x, pad = op.inputs[0], op.args['pad']  # (before, after) of each dimension, from the last
    dims = [x.dim() - 1 - k // 2 for k in range(len(pad)) if pad[k]]
    trace.pin(x, 'padding of the channels', dims=dims)
    trace.put(op.outputs[0], {d: v for d, v in trace.axes(x).items() if d not in dims})
