# Licensed under the Apache License, Version 2.0.
# 1/4 of 2,975.
_base_ = './maskformer_r101_cityscapes_semi-100.py'
train_dataloader = dict(
    dataset=dict(
        labeled='splits/744/0/labeled.txt', unlabeled='splits/744/0/unlabeled.txt'))
