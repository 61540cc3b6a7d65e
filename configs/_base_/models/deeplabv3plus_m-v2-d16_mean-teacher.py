# Licensed under the Apache License, Version 2.0.
# The slim DeepLabV3+ as student and teacher: ReCo + ClassMix.
_base_ = './deeplabv3plus_m-v2-d16.py'
model = dict(
    _delete_=True,
    type='MeanTeacherReCo',
    segmentor=_base_.model,
    tap='sep_bottleneck',
    projector=dict(channels=128, embed_dims=128, separable=True),
    # In a short schedule ReCo at weight 1 drowns the cross-entropy.
    losses=[dict(type='ReCoLoss', num_queries=128, num_negatives=256, loss_weight=0.1)],
    # Pseudo-labels from a teacher that has seen something.
    semi_train_cfg=dict(burn_in=500, ramp_up=100))
