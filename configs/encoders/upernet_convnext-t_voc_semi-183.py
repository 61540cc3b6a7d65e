# Licensed under the Apache License, Version 2.0.
# ReCo + ClassMix, UPerNet on ConvNeXt-T, PASCAL VOC: 183 labelled images.
_base_ = [
    '../_base_/models/upernet_convnext-t.py',
    '../_base_/datasets/voc_512_semi.py',
    '../_base_/schedules/schedule_warmup_40k.py',
    '../_base_/mean_teacher_runtime.py',
]
custom_imports = dict(imports=['mmpretrain.models', 'mmseg_reco'])
model = dict(_delete_=True, type='MeanTeacherReCo', segmentor=_base_.model)
train_dataloader = dict(
    dataset=dict(
        labeled='splits/183/0/labeled.txt', unlabeled='splits/183/0/unlabeled.txt'))
# mmseg's for ConvNeXt, whose constructor must be shown the student alone.
optim_wrapper = dict(
    optimizer=dict(lr=1e-4, weight_decay=0.05),
    constructor='StudentOptimWrapperConstructor',
    paramwise_cfg=dict(
        constructor='LearningRateDecayOptimizerConstructor',
        decay_rate=0.9,
        decay_type='stage_wise',
        num_layers=6))
