# Licensed under the Apache License, Version 2.0.
# CutMix without ReCo.
_base_ = './deeplabv2_r101_voc_partial_classmix.py'
model = dict(mix=dict(type='CutMix'))
