# Licensed under the Apache License, Version 2.0.
# DeepLabV3+ with UniMatch: two strong views, perturbed features, labels of confident pixels. The
# weights of the streams are 0.25, 0.25 and 0.5.
_base_ = './deeplabv3plus_r101-d16_mean-teacher.py'
jitter = (0.5, 1.5)
model = dict(
    losses=[],
    rescale_crop=None,
    mix=dict(type='RandomCutMix'),
    strong_augments=[
        dict(type='BatchColorJitter', brightness=jitter, contrast=jitter, saturation=jitter),
        dict(type='BatchGrayscale'),
        dict(type='BatchGaussianBlur', sigma=(0.1, 2.0)),
    ],
    loss_unsup=dict(
        type='PseudoLabelLoss', strong_threshold=0.95, weight_by='pixel', loss_weight=0.5),
    semi_train_cfg=dict(strong_views=2, feature_dropout=0.5))
