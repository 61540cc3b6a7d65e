# Baseline: 20 labelled CamVid images, half resolution, sized for two CPU cores.
_base_ = [
    '../_base_/models/deeplabv3plus_m-v2-d16.py', '../_base_/datasets/camvid_half.py',
    '../_base_/schedules/schedule_cpu.py', '../_base_/default_runtime.py'
]
# The crop of camvid_half.py; only smaller images would be padded.
model = dict(data_preprocessor=dict(size=(180, 240)))
train_dataloader = dict(dataset=dict(ann_file='splits/20/0/labeled.txt'))
