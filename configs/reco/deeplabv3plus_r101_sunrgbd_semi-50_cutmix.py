# Licensed under the Apache License, Version 2.0.
# CutMix without ReCo.
_base_ = './deeplabv3plus_r101_sunrgbd_semi-50_classmix.py'
model = dict(mix=dict(type='CutMix'))
