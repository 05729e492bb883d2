# The detector of retinanet_shufflenetv2_bccd.py, trained on to a quarter of its MACs:
#   export PYTHONPATH=docs/examples
#   mmpsbn train docs/examples/retinanet_shufflenetv2_bccd.py --work-dir work_dirs/cells
#   mmpsbn train docs/examples/retinanet_shufflenetv2_bccd_quarter.py
# Dense for as long: --cfg-options custom_hooks=[] --work-dir work_dirs/cells_dense
_base_ = 'retinanet_shufflenetv2_bccd.py'
load_from = 'work_dirs/cells/epoch_30.pth'
custom_hooks = [dict(type='DemPHook', budget=dict(flops=0.25))]
train_cfg = dict(max_epochs=15, val_interval=15)
param_scheduler = [dict(type='MultiStepLR', by_epoch=False, milestones=[312, 363], gamma=0.1)]
