# Licensed under the Apache License, Version 2.0.
# RC2L (a reconstruction) on a per-pixel head: regions are the soft masks of the classes. There is
# no RCC without queries.
_base_ = '../reco/deeplabv3plus_r101_cityscapes_semi-20.py'
model = dict(
    type='RC2L',
    # unlabelled images are flipped, too, as in ReCo
    strong_augments=[dict(type=f'Batch{name}') for name in ('ColorJitter', 'GaussianBlur', 'Flip')],
    losses=[dict(type=f'{name}Loss') for name in (
        'RegionMaskContrastive', 'RegionFeatureContrastive', 'SemanticMaskConsistency')])
custom_hooks = _base_.custom_hooks[:-1]  # all but ClassRelationHook, which reads ReCoLoss
