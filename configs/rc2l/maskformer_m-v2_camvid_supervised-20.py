# Licensed under the Apache License, Version 2.0.
# MaskFormer MobileNetV2, CamVid at half resolution, for two CPU cores: 20 labelled images.
_base_ = [
    '../_base_/models/maskformer_m-v2-d32.py',
    '../_base_/datasets/camvid_half.py',
    '../_base_/schedules/schedule_adamw_cpu.py',
    '../_base_/default_runtime.py',
]
model = dict(decode_head=dict(type='RegionMaskFormerHead'))  # leaves ignored pixels out
train_dataloader = dict(dataset=dict(ann_file='splits/20/0/labeled.txt'))
default_hooks = dict(checkpoint=dict(interval=500))
