# Licensed under the Apache License, Version 2.0.
# RC2L (a reconstruction) on a per-pixel head: regions are the soft masks of the classes. There is
# no RCC without queries. At weight 1 each term does harm in this short schedule (docs/analysis.md).
_base_ = '../reco/deeplabv3plus_m-v2_camvid_semi-20.py'
model = dict(
    {key: value for key, value in _base_.model.items() if key != 'loss_unsup'},
    _delete_=True, type='RC2L',
    rescale_crop=dict(type='BatchRescaleCrop'),  # unlabelled images are seen as in ReCo
    strong_augments=[dict(type=f'Batch{name}') for name in ('ColorJitter', 'GaussianBlur', 'Flip')],
    losses=[dict(type=f'{name}Loss', loss_weight=0.1) for name in (
        'RegionMaskContrastive', 'RegionFeatureContrastive', 'SemanticMaskConsistency')])
custom_hooks = _base_.custom_hooks[:-1]  # all but ClassRelationHook, which reads ReCoLoss
