# Licensed under the Apache License, Version 2.0.
# UniMatch with ReCo on both strong views.
_base_ = './deeplabv3plus_r101_voc_semi-183_unimatch.py'
model = dict(losses=[dict(type='ReCoLoss')])
custom_hooks = [*_base_.custom_hooks, dict(type='ClassRelationHook')]
