# Licensed under the Apache License, Version 2.0.
# DeepLabV3+ MobileNetV2, CamVid at half resolution, for two CPU cores: 20 labelled images.
_base_ = [
    '../_base_/models/deeplabv3plus_m-v2-d16.py',
    '../_base_/datasets/camvid_half.py',
    '../_base_/schedules/schedule_cpu.py',
    '../_base_/default_runtime.py',
]
# Roots of SegNet's weights (median frequency over frequency, in the training masks): poles, signs,
# pedestrians and bicyclists are not learned otherwise in so short a schedule. The stock segmentor
# fails with weights where pixels are ignored.
class_weight = [0.53, 0.45, 2.19, 0.39, 1.00, 0.65, 1.96, 1.41, 0.89, 2.53, 2.97]
model = dict(
    type='EmbeddingEncoderDecoder',
    decode_head=dict(loss_decode=dict(class_weight=class_weight)))
train_dataloader = dict(dataset=dict(ann_file='splits/20/0/labeled.txt'))
default_hooks = dict(checkpoint=dict(interval=500))
custom_hooks = [*_base_.custom_hooks, dict(type='ChannelsLastHook')]
