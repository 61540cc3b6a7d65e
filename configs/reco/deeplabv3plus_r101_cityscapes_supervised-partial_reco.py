# Licensed under the Apache License, Version 2.0.
# Supervised + ReCo.
_base_ = './deeplabv3plus_r101_cityscapes_supervised-partial.py'
model = dict(
    type='EmbeddingEncoderDecoder',
    tap='sep_bottleneck',
    losses=[dict(type='ReCoLoss')])
custom_hooks = [
    *_base_.custom_hooks, dict(type='SamplingHook'), dict(type='ClassRelationHook')
]
