# Licensed under the Apache License, Version 2.0.
"""Student and teacher around the stock config of the fixture ``tiny_config``."""
from pathlib import Path

SEMI_CONFIG = """
_base_ = './tiny.py'
custom_imports = dict(imports=['mmseg_reco'])
model = dict(
    _delete_=True, type='MeanTeacherReCo', segmentor=_base_.model, rescale_crop=None,
    mix=dict(type='CutMix'), strong_augments=[], projector=dict(channels=8, embed_dims=8),
    losses=[dict(type='ReCoLoss', num_queries=8, num_negatives=8)],
    semi_train_cfg=dict(weak_threshold=0.34))
train_dataloader = dict(
    batch_size=4,
    sampler=dict(_delete_=True, type='MultiSourceSampler', batch_size=4, source_ratio=[1, 1]),
    dataset=dict(
        _delete_=True, type='LabeledUnlabeledDataset', dataset=_base_.train_dataloader.dataset,
        labeled='labeled.txt', unlabeled='unlabeled.txt'))
custom_hooks = [dict(type='MeanTeacherHook'), dict(type='SamplingHook')]
val_cfg = dict(type='TeacherStudentValLoop')
default_hooks = dict(checkpoint=dict(save_best=None))
"""


def write_semi_config(tiny_config: Path) -> Path:
    """Write ``semi.py`` beside the config: images 0-2 are labelled, 3-5 unlabelled."""
    (tiny_config.parent / 'labeled.txt').write_text('0\n1\n2\n')
    (tiny_config.parent / 'unlabeled.txt').write_text('3\n4\n5\n')
    config = tiny_config.with_name('semi.py')
    config.write_text(SEMI_CONFIG)
    return config
