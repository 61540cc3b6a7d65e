# Licensed under the Apache License, Version 2.0.
# 1/8 of VOC's own 1,464.
_base_ = './maskformer_r101_voc_semi-92.py'
train_dataloader = dict(
    dataset=dict(
        labeled='splits/183/0/labeled.txt', unlabeled='splits/183/0/unlabeled.txt'))
