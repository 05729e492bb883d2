"""What mmcv's compiled operations do to channels, for the tracer, which cannot see them."""

from torch import Tensor, nn

from ..pruning import register_module_rule
from ..pruning.channel_trace import ChannelTrace
from ..pruning.forward import tensors_in
from ..pruning.tracing import register_function_rule


def register_mmcv_rules() -> None:
    """Deformable convolutions and RoI pooling; nothing where mmcv was built without operations, as
    for classifiers: then no model has them."""
    try:
        import mmcv.ops as ops  # "from mmcv import ops" would not name what is missing
        from mmcv.ops.deform_conv import DeformConv2dFunction
        from mmcv.ops.modulated_deform_conv import ModulatedDeformConv2dFunction
    except ModuleNotFoundError as error:
        if error.name not in ('mmcv.ops', 'mmcv._ext'):
            raise
        return
    # as functions, which some heads call with weights of their own
    for function in (DeformConv2dFunction, ModulatedDeformConv2dFunction):
        register_function_rule(function, _deformable_convolution)
    for kind in (ops.RoIAlign, ops.RoIPool):
        register_module_rule(kind, _each_channel)


def _deformable_convolution(trace: ChannelTrace, given: dict, output: Tensor) -> None:
    x, bias = given['input'], given['bias']
    for other in tensors_in([given['offset'], given.get('mask')]):
        trace.pin(other, 'offsets of a deformable convolution')
    if given['deform_groups'] > 1:  # which channels share offsets goes by their number
        trace.pin(x, f'{given["deform_groups"]} groups of offsets')
    bias = bias if isinstance(bias, Tensor) else None  # or False
    trace.convolve(x, given['weight'], bias, output, groups=given['groups'])


def _each_channel(trace: ChannelTrace, module: nn.Module, args: tuple, output) -> None:
    for other in tensors_in(args[1:]):
        trace.pin(other, 'regions to pool')
    trace.put(output, {dim: v for dim, v in trace.axes(args[0]).items() if dim == 1})
