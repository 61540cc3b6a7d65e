# Licensed under the Apache License, Version 2.0.
# The slim MaskFormer as student and teacher: RC2L (a reconstruction), all four terms. Weights of
# 1 drown the set loss in a short schedule, and teaching "no object" to unmatched queries drives out
# rare classes, which the teacher is not sure of yet (docs/methods/rc2l.md).
_base_ = './maskformer_m-v2-d32.py'
model = dict(
    _delete_=True,
    type='RC2L',
    segmentor=_base_.model,
    losses=[
        dict(type='RegionMaskContrastiveLoss', loss_weight=0.1),
        dict(type='RegionFeatureContrastiveLoss', loss_weight=0.1),
        dict(type='RegionClassConsistencyLoss', no_object_weight=0.0),
        dict(type='SemanticMaskConsistencyLoss'),
    ])
