# Licensed under the Apache License, Version 2.0.
# ReCo, and RC2L's (reconstructed) region features and semantic masks beside it, at its weight.
_base_ = '../reco/deeplabv3plus_m-v2_camvid_semi-20.py'
model = dict(
    losses=[
        *_base_.model.losses,
        dict(type='RegionFeatureContrastiveLoss', loss_weight=0.1),
        dict(type='SemanticMaskConsistencyLoss', loss_weight=0.1),
    ])
