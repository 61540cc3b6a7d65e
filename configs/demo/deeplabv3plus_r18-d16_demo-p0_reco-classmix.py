# Licensed under the Apache License, Version 2.0.
# ReCo + ClassMix on the scenes of the demo: the same pixels, iterations, learning rate and images
# in a step as the baseline, half of them with the labels that the teacher gives.
_base_ = './deeplabv3plus_r18-d16_demo-p0_supervised.py'
model = dict(
    _delete_=True,
    type='MeanTeacherReCo',
    segmentor=_base_.model,
    tap='sep_bottleneck',
    projector=dict(channels=64, embed_dims=64),
    losses=[dict(type='ReCoLoss', loss_weight=0.1)],
    semi_train_cfg=dict(self_label_threshold=0.97))
train_dataloader = dict(
    sampler=dict(_delete_=True, type='MultiSourceSampler', batch_size=16, source_ratio=[1, 1]),
    dataset=dict(
        _delete_=True, type='LabeledUnlabeledDataset', dataset=_base_.train_dataloader.dataset))
val_cfg = dict(type='TeacherStudentValLoop')
custom_hooks = [
    dict(type='MeanTeacherHook'),
    dict(type='SamplingHook'),
    dict(type='ClassRelationHook'),
]
