"""What each operation does to the labels its inputs carry.

A rule is ``rule(trace, op)`` with a :class:`~mmpsbn.pruning.tracing.ChannelTrace` and the
:class:`~mmpsbn.pruning.tracing.Op` that ran. Names are those of ATen without namespace,
overload and the underscore of in-place variants.
"""

import math
from collections.abc import Callable
from itertools import chain

from torch import Tensor, nn, tensor

from .labels import FIXED, Vector

# memory that is not computed from its arguments
FACTORIES = {
    f'{prefix}{kind}{suffix}'
    for prefix in ('', 'new_')
    for kind in ('empty', 'zeros', 'ones', 'full')
    for suffix in ('', '_like', '_strided')
} - {'new_empty_like', 'new_zeros_like', 'new_ones_like', 'new_full_like'}

RULES: dict[str, Callable] = {}


def _rule(*names: str) -> Callable:
    def register(function: Callable) -> Callable:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


# --- element by element ------------------------------------------------------------


@_rule('clone', '_to_copy', 'copy', 'detach', 'alias', 'lift_fresh', 'contiguous', 'fill', 'zero')
@_rule('zeros_like', 'ones_like', 'full_like', 'empty_like', 'masked_fill', 'threshold')
@_rule(
    'relu', 'leaky_relu', 'rrelu', '_prelu_kernel', 'elu', 'celu', 'selu', 'gelu', 'silu', 'mish'
)
@_rule('hardtanh', 'hardsigmoid', 'hardswish', 'softplus', 'softshrink', 'hardshrink', 'addcmul')
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


@_rule('mean', 'sum', 'amax', 'amin', 'max', 'min', 'argmax', 'argmin', 'var', 'var_mean', 'std')
@_rule('std_mean', 'any', 'all', 'prod', 'logsumexp', 'linalg_vector_norm', 'norm', 'median')
@_rule(
    '_softmax',
    '_log_softmax',
    'cumsum',
    'cumprod',
    'cummax',
    'cummin',
    'sort',
    'argsort',
    'topk',
    'flip',
    'roll',
)
@_rule('select', 'unbind', 'narrow', 'kthvalue')
def _along(trace, op) -> None:
    """Mixes or picks positions along some dimensions; the others pass."""
    x, *others = op.inputs
    dims = op.args.get('dim', op.args.get('dims'))
    if others or ('dim' not in op.args and 'dims' not in op.args and op.name != 'unbind'):
        dims = None
    elif dims is None and op.name == 'unbind':
        dims = 0
    dims = (
        range(x.dim()) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    )
    dims = {d % max(x.dim(), 1) for d in dims}
    trace.pin(x, f'{op.name} over channels', dims=list(dims))
    for other in others:
        trace.pin(other, f'no rule for {op.name} of several tensors')
    rest = [d for d in range(x.dim()) if d not in dims]
    for output in op.outputs:
        place = (
            {d: d for d in rest} if output.dim() == x.dim() else dict(zip(rest, range(len(rest))))
        )
        trace.put(output, {place[d]: v for d, v in trace.axes(x).items() if d in place})


@_rule('slice')
def _slice(trace, op) -> None:
    x, output = op.inputs[0], op.outputs[0]
    if x.shape == output.shape:
        trace.put(output, trace.axes(x))
        trace.same_writer(output, x)
        return
    dim = op.args.get('dim', 0) % x.dim()
    trace.pin(x, 'a slice of fixed size', dims=[dim])
    trace.put(output, {d: v for d, v in trace.axes(x).items() if d != dim})


@_rule('split', 'split_with_sizes')
def _split(trace, op) -> None:
    x, pieces = op.inputs[0], op.outputs
    dim = op.args.get('dim', 0) % x.dim()
    vector = trace.axes(x).get(dim)
    sizes = {piece.size(dim) for piece in pieces}
    equal = trace.chunking and len(sizes) == 1
    if vector is not None and not equal:
        trace.pin_labels(vector, 'a split into fixed sizes')
    start = 0
    for piece in pieces:
        axes = {d: v for d, v in trace.axes(x).items() if d != dim}
        if vector is not None and equal:
            axes[dim] = vector[start : start + piece.size(dim)]
            trace.join(vector[: piece.size(dim)], axes[dim], 'chunk')  # chunks stay equal
        start += piece.size(dim)
        trace.put(piece, axes)


@_rule('index_select')
def _index_select(trace, op) -> None:
    x, dim = op.inputs[0], op.args['dim'] % op.inputs[0].dim()
    trace.pin(x, 'channels picked by index', dims=[dim])
    trace.pin(op.args['index'], 'indices that depend on channels')
    trace.put(op.outputs[0], {d: v for d, v in trace.axes(x).items() if d != dim})


def _leading(indices: list) -> int | None:
    """How many leading dimensions a list of indices picks from, if it is one tensor."""
    if len(indices) != 1 or indices[0] is None:
        return None
    return (
        indices[0].dim()
        if not indices[0].dtype.is_floating_point
        and (str(indices[0].dtype) in ('torch.bool', 'torch.uint8'))
        else 1
    )


def _pin_indices(trace, op) -> None:
    for index in op.args['indices']:
        if index is not None:
            trace.pin(index, 'indices that depend on channels')


@_rule('index')
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


@_rule('index_put')
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
    for output in {id(t): t for t in (x, *op.outputs)}.values():
        trace.put(output, axes)


# --- joining tensors -----------------------------------------------------------------


@_rule('cat')
def _cat(trace, op) -> None:
    output = op.outputs[0]
    pieces = [t for t in op.inputs if t.dim() == output.dim()]
    dim = op.args.get('dim', 0) % output.dim()
    axes = {}
    for d in range(output.dim()):
        vectors = [trace.axes(t).get(d) for t in pieces]
        if not any(vectors):
            continue
        if d == dim:
            axes[d] = tuple(
                chain.from_iterable(
                    (FIXED,) * t.size(d) if v is None else v for t, v in zip(pieces, vectors)
                )
            )
        else:
            axes[d] = next(filter(None, vectors))
            for vector in vectors:
                trace.join(axes[d], vector, 'cat with a tensor of fixed size')
    trace.put(output, axes)


@_rule('stack')
def _stack(trace, op) -> None:
    output = op.outputs[0]
    dim = op.args.get('dim', 0) % output.dim()
    axes = {}
    for d in range(op.inputs[0].dim()):
        vectors = [trace.axes(t).get(d) for t in op.inputs]
        if any(vectors):
            axes[d + (d >= dim)] = next(filter(None, vectors))
            for vector in vectors:
                trace.join(axes[d + (d >= dim)], vector, 'stack with a tensor of fixed size')
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


@_rule('view', '_unsafe_view', 'reshape', 'squeeze', 'unsqueeze', '_reshape_alias', 'flatten')
def _reshape(trace, op) -> None:
    """Labels move with their positions. Where one dimension becomes several, positions that
    differ only in the outer ones go together, as in a channel shuffle."""
    x, output = op.inputs[0], op.outputs[0]
    old_dims = [d for d, size in enumerate(x.shape) if size > 1]
    new_dims = [d for d, size in enumerate(output.shape) if size > 1]
    axes = {}
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
    grid = tensor(trace.axes(x)[dim]).view(shape).expand(sizes)
    grid = grid.reshape([output.size(d) for d in cols])
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


@_rule('permute', 'transpose', 't')
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


@_rule('expand', 'expand_as')
def _expand(trace, op) -> None:
    x, output = op.inputs[0], op.outputs[0]
    shift = output.dim() - x.dim()
    trace.put(output, {d + shift: v for d, v in trace.axes(x).items()})


@_rule('repeat')
def _repeat(trace, op) -> None:
    x, output = op.inputs[0], op.outputs[0]
    shift = output.dim() - x.dim()
    trace.put(
        output,
        {d + shift: v * (output.size(d + shift) // x.size(d)) for d, v in trace.axes(x).items()},
    )


@_rule('constant_pad_nd')
def _pad(trace, op) -> None:
    x, pad = op.inputs[0], op.args['pad']
    dims = [x.dim() - 1 - k // 2 for k in range(len(pad)) if pad[k]]
    trace.pin(x, 'padding of the channels', dims=dims)
    trace.put(op.outputs[0], {d: v for d, v in trace.axes(x).items() if d not in dims})


# --- images -----------------------------------------------------------------------------


def _spatial(spatial_dims: int) -> Callable:
    def rule(trace, op) -> None:
        """Each channel on its own; positions within it mix."""
        x = op.inputs[0]
        dims = range(x.dim() - spatial_dims, x.dim())
        trace.pin(x, f'{op.name} over channels', dims=list(dims))
        for other in op.inputs[1:]:
            trace.pin(other, f'no rule for the second tensor of {op.name}')
        for output in op.outputs:
            trace.put(output, {d: v for d, v in trace.axes(x).items() if d not in dims})

    return rule


for _n in (1, 2, 3):
    for _name in (
        'max_pool{}d_with_indices',
        'avg_pool{}d',
        'adaptive_avg_pool{}d',
        '_adaptive_avg_pool{}d',
        'adaptive_max_pool{}d',
        'reflection_pad{}d',
        'replication_pad{}d',
        *(
            f'{prefix}upsample_{kind}{suffix}'
            for prefix in ('', '_')
            for kind in ('nearest{}d', 'nearest_exact{}d', 'linear{}d', 'bilinear{}d')
            + ('bicubic{}d', 'trilinear{}d')
            for suffix in ('', '_aa')
        ),
        'grid_sampler_{}d',
    ):
        RULES[_name.format(_n)] = _spatial(_n)


@_rule('im2col')
def _im2col(trace, op) -> None:
    x, output = op.inputs[0], op.outputs[0]
    vector = trace.axes(x).get(x.dim() - 3)
    trace.pin(x, 'im2col over channels', dims=[d for d in trace.axes(x) if d != x.dim() - 3])
    if vector is not None:
        times = math.prod(op.args['kernel_size'])
        trace.put(output, {output.dim() - 2: tuple(v for v in vector for _ in range(times))})


# --- layers -----------------------------------------------------------------------------


@_rule('convolution')
def _convolution(trace, op) -> None:
    weight = op.args['weight']
    in_dim, out_dim = (0, 1) if op.args['transposed'] else (1, 0)
    trace.convolve(
        op.args['input'],
        weight,
        op.args['bias'],
        op.outputs[0],
        dim=op.outputs[0].dim() - weight.dim() + 1,
        in_dim=in_dim,
        out_dim=out_dim,
        groups=op.args['groups'],
    )


@_rule('mm')
def _mm(trace, op) -> None:
    trace.convolve(op.args['self'], op.args['mat2'], None, op.outputs[0], in_dim=0, out_dim=1)


@_rule('addmm')
def _addmm(trace, op) -> None:
    trace.convolve(
        op.args['mat1'], op.args['mat2'], op.args['self'], op.outputs[0], in_dim=0, out_dim=1
    )


@_rule('bmm')
def _bmm(trace, op) -> None:
    """Rows and columns pass; what is summed over is not a layer's to watch."""
    ours, theirs = op.args['self'], op.args['mat2']
    trace.pin(ours, 'a product that is not a layer of its own', dims=[2])
    trace.pin(theirs, 'a product that is not a layer of its own', dims=[1])
    axes = {1: trace.axes(ours).get(1), 2: trace.axes(theirs).get(2)}
    batch = trace.join(trace.axes(ours).get(0), trace.axes(theirs).get(0), 'a batch of fixed size')
    trace.put(op.outputs[0], {d: v for d, v in (axes | {0: batch}).items() if v})


@_rule('_scaled_dot_product_flash_attention_for_cpu', '_scaled_dot_product_flash_attention')
@_rule('_scaled_dot_product_efficient_attention', '_scaled_dot_product_cudnn_attention')
def _attention(trace, op) -> None:
    """Channels of the values pass, heads and queries and keys stay whole."""
    value = op.args['value']
    last = value.dim() - 1
    trace.pin(value, 'attention', dims=list(range(last)))
    for name, other in op.args.items():
        if name != 'value' and isinstance(other, Tensor):  # it may be the same tensor
            trace.pin(other, 'attention')
    passing = trace.axes(value).get(last)
    trace.put(op.outputs[0], {} if passing is None else {last: passing})


@_rule('native_batch_norm', 'cudnn_batch_norm', 'miopen_batch_norm', '_native_batch_norm_legit')
@_rule('_native_batch_norm_legit_no_training', '_batch_norm_no_update')
def _batch_norm(trace, op) -> None:
    x = op.args['input']
    names = ('weight', 'bias', 'running_mean', 'running_var')
    trace.normalise(x, 1, [op.args.get(name) for name in names])
    trace.put(op.outputs[0], trace.axes(x))


@_rule('native_group_norm')
def _group_norm(trace, op) -> None:
    """A group's statistics join its channels: they go all together."""
    x = op.args['input']
    vector = trace.axes(x).get(1)
    trace.normalise(x, 1, [op.args['weight'], op.args['bias']])
    if vector is not None:
        trace.note_norm_groups(vector, op.args['group'])
        if not isinstance(trace.running, nn.GroupNorm) or op.args['weight'] is None:
            trace.pin_labels(vector, 'a fixed number of groups')
    trace.put(op.outputs[0], trace.axes(x))


@_rule('native_layer_norm')
def _layer_norm(trace, op) -> None:
    x = op.args['input']
    dims = list(range(x.dim() - len(op.args['normalized_shape']), x.dim()))
    reason = 'LayerNorm: its statistics join all channels'
    trace.pin(x, reason, dims=dims)
    for affine in (op.args['weight'], op.args['bias']):
        if affine is not None:
            trace.pin(affine, reason)
    trace.put(op.outputs[0], {d: v for d, v in trace.axes(x).items() if d not in dims})
