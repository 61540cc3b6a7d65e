# Licensed under the Apache License, Version 2.0.
# RFC alone.
_base_ = './maskformer_r101_voc_semi-92.py'
model = dict(losses=_base_.model.losses[1:2])
