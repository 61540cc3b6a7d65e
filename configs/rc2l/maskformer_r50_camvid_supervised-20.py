# Licensed under the Apache License, Version 2.0.
# MaskFormer R50, CamVid: 20 labelled images.
_base_ = [
    '../_base_/models/maskformer_r50-d32.py',
    '../_base_/datasets/camvid.py',
    '../_base_/schedules/schedule_adamw_40k.py',
    '../_base_/default_runtime.py',
]
model = dict(decode_head=dict(type='RegionMaskFormerHead'))  # leaves ignored pixels out
train_dataloader = dict(dataset=dict(ann_file='splits/20/0/labeled.txt'))
