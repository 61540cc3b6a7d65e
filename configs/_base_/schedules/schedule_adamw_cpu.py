# Licensed under the Apache License, Version 2.0.
# A short schedule for two CPU cores: ten times the learning rate, the same for the backbone.
_base_ = './schedule_adamw_40k.py'
max_iters = 1000
optim_wrapper = dict(
    optimizer=dict(lr=1e-3), paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=1.0))))
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=1e-6, begin=0, end=max_iters, by_epoch=False)
]
train_cfg = dict(max_iters=max_iters, val_interval=500)
