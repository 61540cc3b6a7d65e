# ReCo + ClassMix: one labelled pixel of each class (p0) in each CamVid image, half resolution.
_base_ = './deeplabv3plus_m-v2_camvid_supervised-partial.py'
model = dict(
    _delete_=True,
    type='MeanTeacherReCo',
    segmentor=_base_.model,
    tap='sep_bottleneck',
    projector=dict(channels=128, embed_dims=128),
    losses=[dict(type='ReCoLoss', num_queries=128, num_negatives=256, loss_weight=0.1)],
    semi_train_cfg=dict(self_label_threshold=0.97))
train_dataloader = dict(
    sampler=dict(_delete_=True, type='MultiSourceSampler', batch_size=8, source_ratio=[1, 1]),
    dataset=dict(
        _delete_=True,
        type='LabeledUnlabeledDataset',
        dataset=_base_.train_dataloader.dataset))
val_cfg = dict(type='TeacherStudentValLoop')
custom_hooks = [
    dict(type='MeanTeacherHook'), dict(type='SamplingHook'), dict(type='ClassRelationHook')
]
default_hooks = dict(checkpoint=dict(save_best='teacher/mIoU'))
