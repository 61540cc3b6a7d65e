# Licensed under the Apache License, Version 2.0.
# All of VOC's own 1,464; the unlabelled ones are SBD's.
_base_ = './maskformer_r101_voc_supervised-92.py'
train_dataloader = dict(dataset=dict(ann_file='splits/1464/0/labeled.txt'))
