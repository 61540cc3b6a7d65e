# Licensed under the Apache License, Version 2.0.
# Any stock config plus five lines: a copy of this file with another _base_ and other lists is all
# that a config of your own takes. Here ReCo + ClassMix with 50 labelled images of Cityscapes as
# mmseg lays it out. For partial labels leave out the lists and wrap the dataset in
# dict(type='PartialLabelDataset', dataset=..., level='p0').
_base_ = 'mmseg::deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024.py'

custom_imports = dict(imports=['mmseg_reco'])
model = dict(_delete_=True, type='MeanTeacherReCo', segmentor=_base_.model)
train_dataloader = dict(
    batch_size=4,
    sampler=dict(_delete_=True, type='MultiSourceSampler', batch_size=4, source_ratio=[1, 1]),
    dataset=dict(
        _delete_=True,
        type='LabeledUnlabeledDataset',
        dataset=_base_.train_dataloader.dataset,
        labeled='splits/50/0/labeled.txt',
        unlabeled='splits/50/0/unlabeled.txt'))
val_cfg = dict(type='TeacherStudentValLoop')
custom_hooks = [dict(type='MeanTeacherHook')]
