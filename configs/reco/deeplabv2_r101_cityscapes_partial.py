# Licensed under the Apache License, Version 2.0.
# ReCo + ClassMix, DeepLabV2 R101, Cityscapes: one labelled pixel of each class (p0) in each of
# 2,975 images.
_base_ = './deeplabv2_r101_cityscapes_semi-20.py'
model = dict(semi_train_cfg=dict(self_label_threshold=0.97))
train_dataloader = dict(
    dataset=dict(
        labeled=None,
        unlabeled=None,
        dataset=dict(type='PartialCityscapesDataset', level='p0', seed=0)))
