_base_ = './vgg16_sgdm_cifar10.py'
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=0.005, weight_decay=5e-4))
param_scheduler = dict(eta_max=0.005)
