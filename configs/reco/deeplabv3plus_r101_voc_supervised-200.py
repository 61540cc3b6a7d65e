# Licensed under the Apache License, Version 2.0.
_base_ = './deeplabv3plus_r101_voc_supervised-60.py'
train_dataloader = dict(dataset=dict(ann_file='splits/200/0/labeled.txt'))
