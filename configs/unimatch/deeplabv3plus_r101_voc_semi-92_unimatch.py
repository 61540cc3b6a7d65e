# Licensed under the Apache License, Version 2.0.
# UniMatch, DeepLabV3+ R101, PASCAL VOC: 92 labelled images, 10,490 unlabelled ones.
_base_ = [
    '../_base_/models/deeplabv3plus_r101-d16_unimatch.py',
    '../_base_/datasets/voc_unimatch_semi.py',
    '../_base_/schedules/schedule_unimatch.py',
    '../_base_/mean_teacher_runtime_unimatch.py',
]
train_dataloader = dict(
    dataset=dict(
        labeled='splits/92/0/labeled.txt', unlabeled='splits/92/0/unlabeled.txt'))
