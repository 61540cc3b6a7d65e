# Licensed under the Apache License, Version 2.0.
# UniMatch's streams with ReCo on both strong views.
_base_ = './deeplabv3plus_m-v2_camvid_semi-20_unimatch.py'
model = dict(losses=[dict(type='ReCoLoss', num_queries=128, num_negatives=256, loss_weight=0.1)])
custom_hooks = [*_base_.custom_hooks, dict(type='ClassRelationHook')]
