"""What the experiments on detectors share."""

# of the detector of configs/quickstart
NARROW = {
    'model.backbone.base_channels': 8,
    'model.neck.in_channels': [16, 32],
    'model.neck.out_channels': 16,
    'model.bbox_head.in_channels': 16,
    'model.bbox_head.feat_channels': 16,
}
