# Licensed under the Apache License, Version 2.0.
_base_ = './deeplabv3plus_r101_sunrgbd_semi-50.py'
train_dataloader = dict(
    dataset=dict(
        labeled='splits/500/0/labeled.txt', unlabeled='splits/500/0/unlabeled.txt'))
