# Baseline: one labelled pixel of each class (p0) in each of the 367 CamVid images, drawn at the
# half resolution at which the images are used.
_base_ = './deeplabv3plus_m-v2_camvid_supervised-20.py'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=(240, 180), keep_ratio=False),
    dict(type='SparsifyLabels', level='p0', seed=0),
    dict(type='RandomRescaleCrop', crop_size=(180, 240), ratio_range=(0.5, 1.5)),
    dict(type='RandomColorJitter'),
    dict(type='RandomGaussianBlur'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(ann_file='train.txt', pipeline=train_pipeline))
