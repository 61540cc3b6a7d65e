# Licensed under the Apache License, Version 2.0.
# DeepLabV2 R101, Cityscapes: one labelled pixel of each class (p0) in each image.
_base_ = './deeplabv2_r101_cityscapes_supervised-20.py'
train_dataloader = dict(
    dataset=dict(
        type='PartialCityscapesDataset',
        ann_file='train.txt',
        level='p0',
        seed=0))
