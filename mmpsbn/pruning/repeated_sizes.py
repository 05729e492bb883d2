"""Widths that the modules around layers repeat in attributes of their own."""

from dataclasses import dataclass

from torch import nn

from .forward import is_conv_or_linear
from .plan import PrunePlan

# what an attribute of that name says of the layers within
_ROLES = {
    **dict.fromkeys(('in_channels', 'in_features', 'in_dim', 'in_dims', 'in_chs'), 'inputs'),
    **dict.fromkeys(('out_channels', 'out_features', 'out_dim', 'out_dims', 'out_chs'), 'outputs'),
    'groups': 'groups',
    **dict.fromkeys(('num_features', 'embed_dim', 'embed_dims', 'channels'), 'features'),
    **dict.fromkeys(('mid_channels', 'hidden_channels', 'feat_channels', 'hidden_dim'), 'features'),
}


@dataclass(frozen=True)
class RepeatedSize:
    """An attribute that repeated a width which a plan changes.

    Attributes:
        module: name of what has it; '' for the model.
        attribute: its name.
        before: its value, the width before.
        after: the widths after, by layer; it can follow if they are one.
    """

    module: str
    attribute: str
    before: int
    after: dict[str, int]

    @property
    def name(self) -> str:
        return f'{self.module}.{self.attribute}'.lstrip('.')

    @property
    def follows(self) -> int | None:
        """The one width after; None where there are several."""
        widths = set(self.after.values())
        return widths.pop() if len(widths) == 1 else None


def repeated_sizes(model: nn.Module, plan: PrunePlan) -> list[RepeatedSize]:
    """The integer attributes of modules around layers that equal a width which the plan changes.

    ``in_channels`` and the like are compared with what all convolutions and linear layers
    within read, ``out_channels`` with what they write, ``groups`` with their groups; and
    ``num_features`` and the like with what a linear layer that is the module's own child reads
    (a classifier), or without one with all widths within. Torch's own modules keep theirs.

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
        if name in layers or type(module).__module__.startswith('torch.nn.'):
            continue
        for attribute, value in vars(module).items():
            role = _ROLES.get(attribute)
            if role is None or type(value) is not int or value < 2:
                continue
            inside = f'{name}.' if name else ''
            within = {k: widths for k, widths in layers.items() if k.startswith(inside)}
            after = _after(module, inside, role, value, within)
            if any(width != value for width in after.values()):
                found.append(RepeatedSize(name, attribute, value, after))
    return found


def _after(
    module: nn.Module, inside: str, role: str, value: int, within: dict[str, dict]
) -> dict[str, int]:
    """What becomes of the widths that the attribute says, by layer."""
    if role == 'features':
        own = {
            k: widths
            for k, widths in within.items()
            if isinstance(module._modules.get(k[len(inside) :]), nn.Linear)
            and widths['inputs'][0] == value
        }
        roles, within = (('inputs',), own) if own else (('inputs', 'outputs'), within)
    else:
        roles = (role,)
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
    out_dim = int(getattr(layer, 'transposed', False))
    # of a grouped convolution whole groups go
    left = groups * after[0] // before[0] if groups > 1 else 1
    return dict(
        inputs=(before[1 - out_dim] * groups, after[1 - out_dim] * left),
        outputs=(before[out_dim], after[out_dim]),
        groups=(groups, left),
    )
