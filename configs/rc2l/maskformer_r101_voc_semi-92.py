# Licensed under the Apache License, Version 2.0.
# RC2L (a reconstruction), MaskFormer R101, PASCAL VOC: 92 labelled images (1/16 of VOC's own
# 1,464), 10,490 unlabelled ones.
_base_ = [
    '../_base_/models/maskformer_r101-d32_rc2l.py',
    '../_base_/datasets/voc_512_semi.py',
    '../_base_/schedules/schedule_adamw_40k.py',
    '../_base_/mean_teacher_runtime_rc2l.py',
]
train_dataloader = dict(
    dataset=dict(
        labeled='splits/92/0/labeled.txt', unlabeled='splits/92/0/unlabeled.txt'))
