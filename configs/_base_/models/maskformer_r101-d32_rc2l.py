# Licensed under the Apache License, Version 2.0.
# MaskFormer as student and teacher: RC2L, a reconstruction, with all four terms.
_base_ = './maskformer_r101-d32.py'
model = dict(
    _delete_=True,
    type='RC2L',
    segmentor=_base_.model,
    losses=[
        dict(type='RegionMaskContrastiveLoss'),
        dict(type='RegionFeatureContrastiveLoss'),
        dict(type='RegionClassConsistencyLoss'),
        dict(type='SemanticMaskConsistencyLoss'),
    ])
