# Licensed under the Apache License, Version 2.0.
# ReCo + ClassMix, UPerNet on BEiT-B, PASCAL VOC: 183 labelled images.
_base_ = [
    '../_base_/models/upernet_beit-b.py',
    '../_base_/datasets/voc_512_semi.py',
    '../_base_/schedules/schedule_warmup_40k.py',
    '../_base_/mean_teacher_runtime.py',
]
model = dict(_delete_=True, type='MeanTeacherReCo', segmentor=_base_.model)
train_dataloader = dict(
    dataset=dict(
        labeled='splits/183/0/labeled.txt', unlabeled='splits/183/0/unlabeled.txt'))
# mmseg's for BEiT, whose constructor must be shown the student alone.
optim_wrapper = dict(
    optimizer=dict(lr=3e-5, weight_decay=0.05),
    constructor='StudentOptimWrapperConstructor',
    paramwise_cfg=dict(
        constructor='LearningRateDecayOptimizerConstructor',
        decay_rate=0.9,
        decay_type='layer_wise_vit',
        num_layers=12))
# No window is larger than the image.
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
