# Licensed under the Apache License, Version 2.0.
_base_ = './deeplabv3plus_r101_sunrgbd_supervised-50.py'
train_dataloader = dict(dataset=dict(ann_file='splits/500/0/labeled.txt'))
