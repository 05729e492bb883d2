"""What the layers of networks do to labels: convolutions, products, norms, pooling.

The counterpart of ``op_rules`` for operations that give channels a meaning: they are written, read,
normalised, or pass each by itself.
"""

import math
import re

from torch import Tensor, nn

from .op_rules import rule

# --- images -----------------------------------------------------------------------------

_POOLING = (
    'max_pool{}d_with_indices avg_pool{}d adaptive_avg_pool{}d _adaptive_avg_pool{}d '
    'adaptive_max_pool{}d reflection_pad{}d replication_pad{}d grid_sampler_{}d'
).split()
_UPSAMPLING = [
    f'{prefix}upsample_{kind}{{}}d{suffix}'
    for prefix in ('', '_')
    for kind in 'nearest nearest_exact linear bilinear bicubic trilinear'.split()
    for suffix in ('', '_aa')
]


@rule(' '.join(name.format(n) for n in (1, 2, 3) for name in (*_POOLING, *_UPSAMPLING)))
def _spatial(trace, op) -> None:
    """Each channel on its own; positions within it mix."""
    x, spatial_dims = op.inputs[0], int(re.search(r'(\d)d', op.name)[1])
    dims = range(x.dim() - spatial_dims, x.dim())
    trace.pin(x, f'{op.name} over channels', dims=list(dims))
    for other in op.inputs[1:]:
        trace.pin(other, f'no rule for the second tensor of {op.name}')
    for output in op.outputs:
        trace.put(output, {d: v for d, v in trace.axes(x).items() if d not in dims})


@rule('im2col')
def _im2col(trace, op) -> None:
    x, output = op.inputs[0], op.outputs[0]
    vector = trace.axes(x).get(x.dim() - 3)
    trace.pin(x, 'im2col over channels', dims=[d for d in trace.axes(x) if d != x.dim() - 3])
    if vector is not None:
        times = math.prod(op.args['kernel_size'])  # taps of a channel stand side by side
        trace.put(output, {output.dim() - 2: tuple(v for v in vector for _ in range(times))})


# --- layers -----------------------------------------------------------------------------


@rule('convolution')
def _convolution(trace, op) -> None:
    weight = op.args['weight']
    in_dim, out_dim = (0, 1) if op.args['transposed'] else (1, 0)
    trace.convolve(
        op.args['input'],
        weight,
        op.args['bias'],
        op.outputs[0],
        dim=op.outputs[0].dim() - weight.dim() + 1,  # 0 without a batch dimension, else 1
        in_dim=in_dim,
        out_dim=out_dim,
        groups=op.args['groups'],
    )


@rule('mm')
def _mm(trace, op) -> None:
    # what F.linear runs: the weight comes transposed, and its labels with it
    trace.convolve(op.args['self'], op.args['mat2'], None, op.outputs[0], in_dim=0, out_dim=1)


@rule('addmm')
def _addmm(trace, op) -> None:
    trace.convolve(
        op.args['mat1'], op.args['mat2'], op.args['self'], op.outputs[0], in_dim=0, out_dim=1
    )


@rule('bmm')
def _bmm(trace, op) -> None:
    """Rows and columns pass; what is summed over is not a layer's to watch."""
    ours, theirs = op.args['self'], op.args['mat2']
    trace.pin(ours, 'a product that is not a layer of its own', dims=[2])
    trace.pin(theirs, 'a product that is not a layer of its own', dims=[1])
    axes = {1: trace.axes(ours).get(1), 2: trace.axes(theirs).get(2)}
    batch = trace.join(trace.axes(ours).get(0), trace.axes(theirs).get(0), 'a batch of fixed size')
    trace.put(op.outputs[0], {d: v for d, v in (axes | {0: batch}).items() if v})


@rule(
    '_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention '
    '_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention'
)
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


@rule(
    'native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit '
    '_native_batch_norm_legit_no_training _batch_norm_no_update'
)
def _batch_norm(trace, op) -> None:
    x = op.args['input']
    names = ('weight', 'bias', 'running_mean', 'running_var')
    trace.normalise(x, 1, [op.args.get(name) for name in names])
    trace.put(op.outputs[0], trace.axes(x))


@rule('native_group_norm')
def _group_norm(trace, op) -> None:
    """A group's statistics join its channels: they go all together."""
    x = op.args['input']
    vector = trace.axes(x).get(1)
    trace.normalise(x, 1, [op.args['weight'], op.args['bias']])
    if vector is not None:
        trace.note_norm_groups(vector, op.args['group'])
        # without a weight, or out of its module, nothing says how many groups are left
        if not isinstance(trace.running, nn.GroupNorm) or op.args['weight'] is None:
            trace.pin_labels(vector, 'a fixed number of groups')
    trace.put(op.outputs[0], trace.axes(x))


@rule('native_layer_norm')
def _layer_norm(trace, op) -> None:
    x = op.args['input']
    dims = list(range(x.dim() - len(op.args['normalized_shape']), x.dim()))
    reason = 'LayerNorm: its statistics join all channels'
    trace.pin(x, reason, dims=dims)
    for affine in (op.args['weight'], op.args['bias']):
        if affine is not None:
            trace.pin(affine, reason)
    trace.put(op.outputs[0], {d: v for d, v in trace.axes(x).items() if d not in dims})
