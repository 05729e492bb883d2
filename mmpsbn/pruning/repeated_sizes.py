"""Widths that the modules around layers repeat in attributes of their own."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from torch import nn

from ..upstream import forward_pre_hooks
from .forward import is_conv_or_linear, output_dim
from .plan import PrunePlan
from .size_roles import SIZE_ROLES

# how names end that speak of some width, but not of which
_WIDTHS = ('channels', 'chs', 'features', 'dim', 'dims', 'planes', 'size', 'sizes', 'width')
_WIDTHS += ('widths',)


@dataclass(frozen=True)
class RepeatedSize:
    """An attribute that repeated a width which a plan changes.

    Attributes:
        module: name of what has it; '' for the model.
        attribute: its name, with the index of an item of a list.
        before: its value, the width before.
        after: the widths after, by layer; it can follow if they are one.
        known: whether its name says of what it is a width; only then it follows.
    """

    module: str
    attribute: str
    before: int
    after: dict[str, int]
    known: bool

    @property
    def name(self) -> str:
        return f'{self.module}.{self.attribute}'.lstrip('.')

    @property
    def follows(self) -> int | None:
        """The one width after; None where there are several, or the name is not known."""
        widths = set(self.after.values())
        return widths.pop() if self.known and len(widths) == 1 else None


def follow_roi_inputs(model: nn.Module) -> Callable[[], None]:
    """Let RoI extractors make room for as many channels as they are given, from now on.

    ``SingleRoIExtractor`` of mmdet repeats the width of what it pools in ``out_channels``, and no
    layer within tells it; so each forward pass does. (``GenericRoIExtractor`` adds or joins
    levels: the tracer leaves what it pools whole.) Returns the way back.
    """
    with ExitStack() as undo:
        for module in model.modules():
            if not hasattr(module, 'roi_layers') or hasattr(module, 'aggregation'):
                continue
            undo.callback(setattr, module, 'out_channels', module.out_channels)
            if _take_input_width not in forward_pre_hooks(module):  # of an earlier cut
                undo.callback(module.register_forward_pre_hook(_take_input_width).remove)
        return undo.pop_all().close


def _take_input_width(module: nn.Module, args: tuple) -> None:
    feats = args[0]  # a level each
    module.out_channels = feats[0].size(1)


def repeated_sizes(model: nn.Module, plan: PrunePlan) -> list[RepeatedSize]:
    """The integer attributes of modules around layers that equal a width which the plan changes.

    ``in_channels`` and the like are compared with what all convolutions and linear layers
    within read, ``out_channels`` with what they write, ``groups`` with their groups; and
    ``num_features`` and the like with what a linear layer that is the module's own child reads
    (a classifier), or without one with all widths within. With these are compared, but never
    follow, other attributes that a width ends the name of, as ``planes`` or ``hidden_size``, and
    items of lists. Torch's own modules keep theirs.

    Args:
        model: before the plan.
    """
    layers = {
        name: _widths(name, module, plan)
        for name, module in model.named_modules()
        if is_conv_or_linear(module)
    }
    found = []
    for name, module in model.named_modules():
        # surgery sets a layer's own sizes; torch's containers compute with theirs (attention)
        if name in layers or type(module).__module__.startswith('torch.nn.'):
            continue
        inside = f'{name}.' if name else ''
        within = {k: widths for k, widths in layers.items() if k.startswith(inside)}
        for attribute, role, value in _sizes(module):
            after = _after(module, inside, role, value, within)
            # where the plan changes none of them, the number may be a width or not: it stays
            if any(width != value for width in after.values()):
                found.append(RepeatedSize(name, attribute, value, after, role != 'unknown'))
    return found


def _sizes(module: nn.Module) -> Iterator[tuple[str, str, int]]:
    """Attributes that may repeat a width, with the role and the value."""
    for attribute, value in vars(module).items():
        role = SIZE_ROLES.get(attribute)
        if role is None and not attribute.endswith(_WIDTHS):
            continue
        named = [(attribute, role or 'unknown', value)]
        if isinstance(value, (list, tuple)):
            named = [(f'{attribute}[{k}]', 'unknown', item) for k, item in enumerate(value)]
        # not bool; and 1 is the value of too much that is no width
        yield from (size for size in named if type(size[2]) is int and size[2] >= 2)


def _after(
    module: nn.Module, inside: str, role: str, value: int, within: dict[str, dict]
) -> dict[str, int]:
    """What becomes of the widths that the attribute says, by layer."""
    roles = ('inputs', 'outputs') if role in ('features', 'unknown') else (role,)
    if role == 'features':
        children = dict(module.named_children())
        own = {
            k: widths
            for k, widths in within.items()
            if isinstance(children.get(k[len(inside) :]), nn.Linear)
            and widths['inputs'][0] == value
        }
        if own:
            roles, within = ('inputs',), own
    return {
        k if len(roles) == 1 else f'{k} {r}': widths[r][1]
        for k, widths in within.items()
        for r in roles
        if widths[r][0] == value
    }


def _widths(name: str, layer: nn.Module, plan: PrunePlan) -> dict[str, tuple]:
    """(before, after) of a layer's input and output channels and groups."""
    weight = f'{name}.weight'.lstrip('.')
    groups = getattr(layer, 'groups', 1)
    before = plan.shapes[weight] if weight in plan.kept else None
    if before is None:
        inputs = getattr(layer, 'in_features', getattr(layer, 'in_channels', None))
        outputs = getattr(layer, 'out_features', getattr(layer, 'out_channels', None))
        return dict(inputs=(inputs,) * 2, outputs=(outputs,) * 2, groups=(groups,) * 2)
    after = plan.shape_after(weight)
    out_dim = output_dim(layer)
    # of a grouped convolution whole groups go
    left = groups * after[0] // before[0] if groups > 1 else 1
    return dict(
        inputs=(before[1 - out_dim] * groups, after[1 - out_dim] * left),
        outputs=(before[out_dim], after[out_dim]),
        groups=(groups, left),
    )
