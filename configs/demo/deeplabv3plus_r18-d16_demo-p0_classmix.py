# Licensed under the Apache License, Version 2.0.
# ClassMix without ReCo on the scenes of the demo.
_base_ = './deeplabv3plus_r18-d16_demo-p0_reco-classmix.py'
model = dict(losses=[])
custom_hooks = _base_.custom_hooks[:-1]  # all but ClassRelationHook, which reads ReCoLoss
