# Licensed under the Apache License, Version 2.0.
# 60 images of all 10,582, chosen by ReCo's rule.
_base_ = './maskformer_r101_voc_supervised-92.py'
train_dataloader = dict(dataset=dict(ann_file='splits/60/0/labeled.txt'))
