# Licensed under the Apache License, Version 2.0.
_base_ = './deeplabv3plus_r101_sunrgbd_semi-50_classmix.py'
train_dataloader = dict(
    dataset=dict(
        labeled='splits/150/0/labeled.txt', unlabeled='splits/150/0/unlabeled.txt'))
