# Licensed under the Apache License, Version 2.0.
_base_ = './deeplabv3plus_r101_cityscapes_supervised-20.py'
train_dataloader = dict(dataset=dict(ann_file='splits/50/0/labeled.txt'))
