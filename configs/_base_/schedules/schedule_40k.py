# Licensed under the Apache License, Version 2.0.
# The paper's: SGD with Nesterov momentum, poly decay, 40k iterations. The authors step the decay
# every 200 iterations; here every iteration.
max_iters = 40000
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=2.5e-3, momentum=0.9, nesterov=True, weight_decay=5e-4))
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=1e-6, begin=0, end=max_iters, by_epoch=False)
]
train_cfg = dict(type='ResumableTrainLoop', max_iters=max_iters, val_interval=2000)
