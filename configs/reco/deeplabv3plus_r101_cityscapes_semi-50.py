# Licensed under the Apache License, Version 2.0.
_base_ = './deeplabv3plus_r101_cityscapes_semi-20.py'
train_dataloader = dict(
    dataset=dict(
        labeled='splits/50/0/labeled.txt', unlabeled='splits/50/0/unlabeled.txt'))
