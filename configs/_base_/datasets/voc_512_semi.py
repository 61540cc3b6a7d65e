# Licensed under the Apache License, Version 2.0.
# Half of every batch labelled, half unlabelled: 8 + 8.
_base_ = './voc_512.py'
train_dataloader = dict(
    sampler=dict(
        _delete_=True,
        type='MultiSourceSampler',
        batch_size=_base_.train_dataloader.batch_size,
        source_ratio=[1, 1]),
    dataset=dict(
        _delete_=True, type='LabeledUnlabeledDataset', dataset=_base_.train_dataloader.dataset))
