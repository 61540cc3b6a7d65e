# Licensed under the Apache License, Version 2.0.
# DeepLabV2 as student and teacher, at the paper's settings: ReCo + ClassMix. Representations are a
# 1x1 projection of the backbone's features.
_base_ = './deeplabv2_r101-d8.py'
model = dict(
    _delete_=True,
    type='MeanTeacherReCo',
    segmentor=_base_.model,
    projector=dict(channels=None),
    losses=[dict(type='ReCoLoss')])
