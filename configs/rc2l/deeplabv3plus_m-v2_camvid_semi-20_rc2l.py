# Licensed under the Apache License, Version 2.0.
# RC2L on a per-pixel head: regions are the soft masks of the classes. There is no RCC without
# queries.
_base_ = '../reco/deeplabv3plus_m-v2_camvid_semi-20.py'
model = dict(
    _delete_=True,  # ReCo's loss_unsup
    type='RC2L',
    **{key: _base_.model[key] for key in ('segmentor', 'tap', 'projector', 'semi_train_cfg')},
    losses=[
        dict(type='RegionMaskContrastiveLoss'),
        dict(type='RegionFeatureContrastiveLoss'),
        dict(type='SemanticMaskConsistencyLoss'),
    ])
custom_hooks = _base_.custom_hooks[:-1]  # all but ClassRelationHook, which reads ReCoLoss
