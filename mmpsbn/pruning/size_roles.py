"""Names of attributes that repeat a width and follow it when channels go."""

# name -> what it says of the layers within
SIZE_ROLES = {
    **dict.fromkeys(('in_channels', 'in_features', 'in_dim', 'in_dims', 'in_chs'), 'inputs'),
    **dict.fromkeys(('out_channels', 'out_features', 'out_dim', 'out_dims', 'out_chs'), 'outputs'),
    'groups': 'groups',
    **dict.fromkeys(('num_features', 'embed_dim', 'embed_dims', 'channels'), 'features'),
    **dict.fromkeys(('mid_channels', 'hidden_channels', 'feat_channels', 'hidden_dim'), 'features'),
}
