"""What mmcv's compiled operations do to channels, for the tracer, which cannot see them."""

from torch import nn

from ..pruning import register_module_rule
from ..pruning.channel_trace import ChannelTrace
from ..pruning.forward import tensors_in


def register_mmcv_rules() -> None:
    """Deformable convolutions and RoI pooling; nothing where mmcv was built without operations, as
    for classifiers: then no model has them."""
    try:
        import mmcv.ops as ops  # "from mmcv import ops" would not name what is missing
    except ModuleNotFoundError as error:
        if error.name not in ('mmcv.ops', 'mmcv._ext'):
            raise
        return
    for kind in (ops.DeformConv2d, ops.ModulatedDeformConv2d):
        register_module_rule(kind, _deformable_convolution)
    for kind in (ops.RoIAlign, ops.RoIPool):
        register_module_rule(kind, _each_channel)


def _deformable_convolution(trace: ChannelTrace, module: nn.Module, args: tuple, output) -> None:
    for other in tensors_in(args[1:]):
        trace.pin(other, 'offsets of a deformable convolution')
    if module.deform_groups > 1:  # which channels share offsets goes by their number
        trace.pin(args[0], f'{module.deform_groups} groups of offsets')
    trace.convolve(
        args[0], module.weight, getattr(module, 'bias', None), output, groups=module.groups
    )


def _each_channel(trace: ChannelTrace, module: nn.Module, args: tuple, output) -> None:
    for other in tensors_in(args[1:]):
        trace.pin(other, 'regions to pool')
    trace.put(output, {dim: v for dim, v in trace.axes(args[0]).items() if dim == 1})
