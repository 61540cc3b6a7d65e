# Licensed under the Apache License, Version 2.0.
# ClassMix without ReCo.
_base_ = './deeplabv3plus_m-v2_camvid_partial.py'
model = dict(losses=[])
custom_hooks = _base_.custom_hooks[:-1]  # all but ClassRelationHook, which reads ReCoLoss
