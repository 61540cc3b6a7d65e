# Licensed under the Apache License, Version 2.0.
# Supervised + ReCo.
_base_ = './deeplabv2_r101_voc_supervised-60.py'
model = dict(
    type='EmbeddingEncoderDecoder',
    projector=dict(channels=None),
    losses=[dict(type='ReCoLoss')])
custom_hooks = [
    *_base_.custom_hooks, dict(type='SamplingHook'), dict(type='ClassRelationHook')
]
