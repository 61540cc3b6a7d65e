# Licensed under the Apache License, Version 2.0.
# DeepLabV3+ R101, CamVid: one labelled pixel of each class (p0) in each image.
_base_ = './deeplabv3plus_r101_camvid_supervised-20.py'
train_dataloader = dict(
    dataset=dict(
        type='PartialCamVidDataset',
        ann_file='train.txt',
        level='p0',
        seed=0))
