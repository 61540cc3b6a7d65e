# Licensed under the Apache License, Version 2.0.
# 1/4 of 2,975.
_base_ = './maskformer_r101_cityscapes_supervised-100.py'
train_dataloader = dict(dataset=dict(ann_file='splits/744/0/labeled.txt'))
