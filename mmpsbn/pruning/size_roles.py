"""Names of attributes that repeat a width and follow it when channels go."""

from torch import nn

from .forward import is_conv_or_linear

# name -> what it says of the layers within
SIZE_ROLES = {
    **dict.fromkeys(('in_channels', 'in_features', 'in_dim', 'in_dims', 'in_chs'), 'inputs'),
    **dict.fromkeys(('out_channels', 'out_features', 'out_dim', 'out_dims', 'out_chs'), 'outputs'),
    'groups': 'groups',
    **dict.fromkeys(('num_features', 'embed_dim', 'embed_dims', 'channels'), 'features'),
    **dict.fromkeys(('mid_channels', 'hidden_channels', 'feat_channels', 'hidden_dim'), 'features'),
}
_OF_LAYERS = dict(
    inputs=('in_channels', 'in_features'),
    outputs=('out_channels', 'out_features'),
    groups=('groups',),
    features=('in_channels', 'in_features', 'out_channels', 'out_features'),
)


def follows_a_width(module: nn.Module, size: int) -> bool:
    """Whether a module has a size in an attribute that repeats a width of a layer within, which
    surgery keeps up (:func:`.repeated_sizes`)."""
    if type(module).__module__.startswith('torch.nn.'):
        return False
    named = {n for n in SIZE_ROLES if type(v := vars(module).get(n)) is int and v == size >= 2}
    names = {name for attribute in named for name in _OF_LAYERS[SIZE_ROLES[attribute]]}
    layers = [layer for layer in module.modules() if is_conv_or_linear(layer)]
    return any(getattr(layer, name, None) == size for layer in layers for name in names)
