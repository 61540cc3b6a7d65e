# Licensed under the Apache License, Version 2.0.
# SMC alone.
_base_ = './maskformer_m-v2_camvid_semi-20.py'
model = dict(losses=_base_.model.losses[3:])
