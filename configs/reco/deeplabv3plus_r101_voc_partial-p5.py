# Licensed under the Apache License, Version 2.0.
_base_ = './deeplabv3plus_r101_voc_partial.py'
train_dataloader = dict(dataset=dict(dataset=dict(level='p5')))
