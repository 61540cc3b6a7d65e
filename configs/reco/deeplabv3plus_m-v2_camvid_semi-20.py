# Licensed under the Apache License, Version 2.0.
# ReCo + ClassMix, DeepLabV3+ MobileNetV2, CamVid at half resolution, for two CPU cores: 20
# labelled images, 347 unlabelled ones.
_base_ = [
    '../_base_/models/deeplabv3plus_m-v2-d16_mean-teacher.py',
    '../_base_/datasets/camvid_half_semi.py',
    '../_base_/schedules/schedule_cpu.py',
    '../_base_/mean_teacher_runtime_cpu.py',
]
# Those of supervised-20; on pseudo-labels too, from which the student unlearns rare classes
# otherwise. Half the weight for these: the more they count, the more the common classes lose. And
# pseudo-labels keep the frequencies of the labels, or some classes spread.
class_weight = [0.53, 0.45, 2.19, 0.39, 1.00, 0.65, 1.96, 1.41, 0.89, 2.53, 2.97]
model = dict(
    segmentor=dict(decode_head=dict(loss_decode=dict(class_weight=class_weight))),
    loss_unsup=dict(type='PseudoLabelLoss', loss_weight=0.5, class_weight=class_weight),
    semi_train_cfg=dict(class_frequencies='labeled'))
train_dataloader = dict(
    sampler=dict(burn_in=_base_.model.semi_train_cfg.burn_in),
    dataset=dict(labeled='splits/20/0/labeled.txt', unlabeled='splits/20/0/unlabeled.txt'))
default_hooks = dict(checkpoint=dict(interval=500))
