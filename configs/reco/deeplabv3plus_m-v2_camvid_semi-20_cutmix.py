# Licensed under the Apache License, Version 2.0.
# CutMix without ReCo.
_base_ = './deeplabv3plus_m-v2_camvid_semi-20_classmix.py'
model = dict(mix=dict(type='CutMix'))
