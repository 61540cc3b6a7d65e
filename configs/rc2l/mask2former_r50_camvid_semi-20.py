# Licensed under the Apache License, Version 2.0.
# RC2L (a reconstruction), Mask2Former R50, CamVid: 20 labelled images, 347 unlabelled ones.
_base_ = [
    '../_base_/models/mask2former_r50-d32.py',
    '../_base_/datasets/camvid_semi.py',
    '../_base_/schedules/schedule_adamw_40k.py',
    '../_base_/mean_teacher_runtime_rc2l.py',
]
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
optim_wrapper = dict(optimizer=dict(weight_decay=0.05))  # Mask2Former's
train_dataloader = dict(
    dataset=dict(
        labeled='splits/20/0/labeled.txt', unlabeled='splits/20/0/unlabeled.txt'))
