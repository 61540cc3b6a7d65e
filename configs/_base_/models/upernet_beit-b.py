# Licensed under the Apache License, Version 2.0.
# UPerNet on BEiT-B, which knows one size of images: crops of datasets/voc_512.py, and windows of
# that size in validation. The weights are the BEiT authors', put there by hand as for mmseg.
_base_ = 'mmseg::_base_/models/upernet_beit.py'
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    pretrained='pretrain/beit_base_patch16_224_pt22k_ft22k.pth',
    backbone=dict(img_size=(512, 512)),
    decode_head=dict(num_classes=21),
    auxiliary_head=dict(num_classes=21),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)))
