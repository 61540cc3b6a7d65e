# Licensed under the Apache License, Version 2.0.
# UPerNet on ConvNeXt-T, which is in mmpretrain. Classes and crop of datasets/voc_512.py. mmseg's
# heads for Swin-T are those for ConvNeXt-T.
_base_ = './upernet_swin-t.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.ConvNeXt',
        arch='tiny',
        out_indices=[0, 1, 2, 3],
        drop_path_rate=0.4,
        layer_scale_init_value=1.0,
        gap_before_final_norm=False,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://download.openmmlab.com/mmclassification/v0/convnext/downstream/'
            'convnext-tiny_3rdparty_32xb128-noema_in1k_20220301-795e9634.pth',
            prefix='backbone.')))
