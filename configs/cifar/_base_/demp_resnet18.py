# The DemP paper's ResNet-18 (appendix I.1): 250 epochs of 128, the rate divided by 5 every 77.
param_scheduler = dict(type='StepLR', step_size=77, gamma=0.2, by_epoch=True)
train_cfg = dict(by_epoch=True, max_epochs=250, val_interval=1)
val_cfg = dict()
test_cfg = dict()
