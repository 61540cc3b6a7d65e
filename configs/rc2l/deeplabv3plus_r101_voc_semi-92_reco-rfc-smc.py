# Licensed under the Apache License, Version 2.0.
# ReCo, and RC2L's (reconstructed) region features and semantic masks beside it.
_base_ = '../reco/deeplabv3plus_r101_voc_semi-92.py'
model = dict(
    losses=[
        *_base_.model.losses,
        dict(type='RegionFeatureContrastiveLoss'),
        dict(type='SemanticMaskConsistencyLoss'),
    ])
