# Licensed under the Apache License, Version 2.0.
# 1/16 of 2,975.
_base_ = './maskformer_r101_cityscapes_semi-100.py'
train_dataloader = dict(
    dataset=dict(
        labeled='splits/186/0/labeled.txt', unlabeled='splits/186/0/unlabeled.txt'))
