# Licensed under the Apache License, Version 2.0.
# UniMatch's on VOC: 80 epochs of 10,490 unlabelled images, 8 at a time. The authors halve the sum
# of the losses; half their learning rate and twice their weight decay give the same steps.
_base_ = './schedule_40k.py'
max_iters = 105000
optim_wrapper = dict(
    optimizer=dict(lr=5e-3, nesterov=False, weight_decay=2e-4),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))))
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=max_iters, by_epoch=False)
]
train_cfg = dict(max_iters=max_iters, val_interval=5000)
