# Licensed under the Apache License, Version 2.0.
# CutOut without ReCo.
_base_ = './deeplabv3plus_r101_voc_partial_classmix.py'
model = dict(mix=dict(type='CutOut'))
