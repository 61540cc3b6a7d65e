# Licensed under the Apache License, Version 2.0.
# DeepLabV3+ R101, PASCAL VOC: one labelled pixel of each class (p0) in each image.
_base_ = './deeplabv3plus_r101_voc_supervised-60.py'
train_dataloader = dict(
    dataset=dict(
        type='PartialVOCDataset',
        ann_file='ImageSets/Segmentation/train_aug.txt',
        level='p0',
        seed=0))
