# Licensed under the Apache License, Version 2.0.
# CutOut without ReCo.
_base_ = './deeplabv2_r101_cityscapes_semi-20_classmix.py'
model = dict(mix=dict(type='CutOut'))
