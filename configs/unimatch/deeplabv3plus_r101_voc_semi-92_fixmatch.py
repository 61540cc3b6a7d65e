# Licensed under the Apache License, Version 2.0.
# FixMatch: one strong view, no perturbed features.
_base_ = './deeplabv3plus_r101_voc_semi-92_unimatch.py'
model = dict(
    loss_unsup=dict(loss_weight=1.0), semi_train_cfg=dict(strong_views=1, feature_dropout=None))
