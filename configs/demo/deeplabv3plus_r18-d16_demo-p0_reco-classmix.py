# Licensed under the Apache License, Version 2.0.
# ReCo + ClassMix on the scenes of the demo: the same labelled pixels, iterations, learning rate and
# number of images in a step as the baseline, but half of them are unlabelled scenes, with the
# labels that the teacher gives. Lower thresholds than the paper's, as a small network that starts
# from scratch is less sure; fewer queries and negatives, for the small maps; and a teacher with the
# student's BN statistics, which labels these drawn scenes better (docs/analysis.md).
_base_ = './deeplabv3plus_r18-d16_demo-p0_supervised.py'
model = dict(
    _delete_=True,
    type='MeanTeacherReCo',
    segmentor=_base_.model,
    tap='sep_bottleneck',
    projector=dict(channels=48, embed_dims=48),
    losses=[dict(type='ReCoLoss', num_queries=64, num_negatives=128, loss_weight=0.5)],
    loss_unsup=dict(type='PseudoLabelLoss', strong_threshold=0.8),
    rescale_crop=dict(type='BatchRescaleCrop', ratio_range=(0.75, 1.5)),
    strong_augments=[
        dict(type='BatchColorJitter', hue=(-0.05, 0.05)),
        dict(type='BatchFlip'),
    ],
    semi_train_cfg=dict(self_label_threshold=0.9, teacher_batch_stats=False))
train_dataloader = dict(
    sampler=dict(_delete_=True, type='MultiSourceSampler', batch_size=8, source_ratio=[1, 1]),
    dataset=dict(
        _delete_=True,
        type='LabeledUnlabeledDataset',
        dataset=_base_.train_dataloader.dataset,
        labeled='labeled.txt',
        unlabeled='unlabeled.txt'))
val_cfg = dict(type='TeacherStudentValLoop')
custom_hooks = [
    dict(type='MeanTeacherHook', momentum=0.02),
    dict(type='SamplingHook'),
    dict(type='ClassRelationHook'),
]
