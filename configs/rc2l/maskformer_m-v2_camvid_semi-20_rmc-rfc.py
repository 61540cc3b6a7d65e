# Licensed under the Apache License, Version 2.0.
# The contrastive terms alone: RMC and RFC.
_base_ = './maskformer_m-v2_camvid_semi-20.py'
model = dict(losses=_base_.model.losses[:2])
