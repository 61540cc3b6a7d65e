# Licensed under the Apache License, Version 2.0.
# 20 images, chosen by ReCo's rule.
_base_ = './maskformer_r101_cityscapes_semi-100.py'
train_dataloader = dict(
    dataset=dict(
        labeled='splits/20/0/labeled.txt', unlabeled='splits/20/0/unlabeled.txt'))
