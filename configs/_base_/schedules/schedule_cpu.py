# Licensed under the Apache License, Version 2.0.
# A short schedule for two CPU cores. AdamW learns faster than the paper's SGD in it.
_base_ = './schedule_40k.py'
max_iters = 1500
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.01))
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=1e-6, begin=0, end=max_iters, by_epoch=False)
]
train_cfg = dict(max_iters=max_iters, val_interval=500)
