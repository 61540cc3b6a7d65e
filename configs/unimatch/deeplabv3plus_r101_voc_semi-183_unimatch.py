# Licensed under the Apache License, Version 2.0.
_base_ = './deeplabv3plus_r101_voc_semi-92_unimatch.py'
train_dataloader = dict(
    dataset=dict(
        labeled='splits/183/0/labeled.txt', unlabeled='splits/183/0/unlabeled.txt'))
