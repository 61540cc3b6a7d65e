# Licensed under the Apache License, Version 2.0.
# Supervised + ReCo.
_base_ = './deeplabv3plus_m-v2_camvid_supervised-partial.py'
model = dict(
    tap='sep_bottleneck',
    projector=dict(channels=128, embed_dims=128, separable=True),
    losses=[dict(type='ReCoLoss', num_queries=128, num_negatives=256, loss_weight=0.1)])
custom_hooks = [
    *_base_.custom_hooks, dict(type='SamplingHook'), dict(type='ClassRelationHook')
]
