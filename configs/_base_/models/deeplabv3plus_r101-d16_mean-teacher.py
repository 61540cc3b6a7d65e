# Licensed under the Apache License, Version 2.0.
# DeepLabV3+ as student and teacher, at the paper's settings: ReCo + ClassMix.
_base_ = './deeplabv3plus_r101-d16.py'
model = dict(
    _delete_=True,
    type='MeanTeacherReCo',
    segmentor=_base_.model,
    tap='sep_bottleneck',
    losses=[dict(type='ReCoLoss')])
