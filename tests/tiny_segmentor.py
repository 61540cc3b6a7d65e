# Licensed under the Apache License, Version 2.0.
"""A stock segmentor small enough for tests, and batches for it."""
import torch
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

NUM_CLASSES = 4
SIZE = (32, 40)


def segmentor_config(norm='BN', auxiliary=False):
    """An ordinary mmseg config: ResNet-18 of 4 channels, FCN head on stride 4."""
    head = dict(
        type='FCNHead', in_channels=4, in_index=0, channels=6, num_convs=1, concat_input=False,
        dropout_ratio=0, num_classes=NUM_CLASSES,
        norm_cfg=dict(type=norm, **(dict(num_groups=2) if norm == 'GN' else {})),
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True))
    return ConfigDict(
        type='EncoderDecoder',
        data_preprocessor=dict(
            type='SegDataPreProcessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
            bgr_to_rgb=True, size=SIZE),
        backbone=dict(
            type='ResNet', depth=18, base_channels=4, num_stages=1, strides=(1, ), dilations=(1, ),
            out_indices=(0, ), norm_cfg=head['norm_cfg'], norm_eval=False),
        decode_head=head,
        auxiliary_head=dict(
            head, loss_decode=[
                dict(type='CrossEntropyLoss', loss_weight=0.4, avg_non_ignore=True),
                dict(type='DiceLoss', loss_weight=0.1)
            ]) if auxiliary else None,
        test_cfg=dict(mode='whole'))


def query_segmentor_config(head='MaskFormerHead'):
    """A stock mmseg config of MaskFormer or Mask2Former: 8 queries, 2 decoder layers, stride 4."""
    deformable = 'Mask2Former' in head
    config = segmentor_config()
    config.backbone.update(num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(0, 1))
    ffn = dict(
        embed_dims=8, feedforward_channels=16, num_fcs=2, act_cfg=dict(type='ReLU', inplace=True),
        ffn_drop=0.)
    attention = dict(embed_dims=8, num_heads=2, attn_drop=0., proj_drop=0., batch_first=True)
    position = dict(num_feats=4, normalize=True)
    pixel_decoder = dict(
        type='mmdet.PixelDecoder', norm_cfg=dict(type='GN', num_groups=2),
        act_cfg=dict(type='ReLU'))
    mask = dict(type='mmdet.FocalLoss', use_sigmoid=True, loss_weight=20.)
    mask_cost = dict(type='mmdet.FocalLossCost', weight=20., binary_input=True)
    if deformable:
        pixel_decoder.update(
            type='mmdet.MSDeformAttnPixelDecoder', num_outs=1, strides=[4, 8],
            positional_encoding=position, encoder=dict(
                num_layers=1, layer_cfg=dict(
                    self_attn_cfg=dict(
                        embed_dims=8, num_heads=2, num_levels=1, num_points=2, dropout=0.,
                        batch_first=True), ffn_cfg=ffn)))
        mask = dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True, loss_weight=5.)
        mask_cost = dict(type='mmdet.CrossEntropyLossCost', weight=5.)
    weight = 5. if deformable else 1.  # of Dice
    config.decode_head = dict(
        type=head, in_channels=[4, 8], feat_channels=8, out_channels=8, num_classes=NUM_CLASSES,
        num_queries=8, pixel_decoder=pixel_decoder, positional_encoding=position,
        transformer_decoder=dict(
            return_intermediate=True, num_layers=2, layer_cfg=dict(
                self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=ffn)),
        loss_cls=dict(
            type='mmdet.CrossEntropyLoss', loss_weight=2. if deformable else 1.,
            class_weight=[1.] * NUM_CLASSES + [0.1]),
        loss_mask=mask,
        loss_dice=dict(type='mmdet.DiceLoss', naive_dice=True, eps=1., loss_weight=weight),
        train_cfg=dict(
            assigner=dict(
                type='mmdet.HungarianAssigner', match_costs=[
                    dict(type='mmdet.ClassificationCost', weight=2. if deformable else 1.),
                    mask_cost,
                    dict(type='mmdet.DiceCost', weight=weight, pred_act=True, eps=1.)
                ]),
            sampler=dict(type='mmdet.MaskPseudoSampler')))
    if deformable:
        config.decode_head.update(strides=[4, 8], num_transformer_feat_level=1)
        config.decode_head.train_cfg.update(num_points=200)
    return config


def make_sample(labels, size=SIZE, hidden=None):
    """A data sample with labels (h, w), as the loader gives it."""
    sample = SegDataSample(metainfo=dict(
        ori_shape=size, img_shape=size, pad_shape=size, scale_factor=(1., 1.), flip=False))
    sample.gt_sem_seg = PixelData(data=labels[None])
    if hidden is not None:
        sample.hidden_sem_seg = PixelData(data=hidden[None])
    return sample


def make_labels(seed, ignored=0.3, size=SIZE):
    """Blocks of classes with some ignored pixels. Shape (h, w)."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, NUM_CLASSES, (size[0] // 8, size[1] // 8), generator=generator)
    labels = blocks.repeat_interleave(8, 0).repeat_interleave(8, 1)
    return labels.masked_fill(torch.rand(size, generator=generator) < ignored, 255)


def make_batch(seed=0, labeled=2, unlabeled=3, given=False):
    """A preprocessed multi-branch batch: inputs and data samples by branch."""
    generator = torch.Generator().manual_seed(seed)
    # Images in [0, 255], normalised (about).
    inputs = dict(
        sup=torch.rand(labeled, 3, *SIZE, generator=generator) * 4 - 1.8,
        unsup=torch.rand(unlabeled, 3, *SIZE, generator=generator) * 4 - 1.8)
    data_samples = dict(
        sup=[make_sample(make_labels(seed + i)) for i in range(labeled)],
        unsup=[
            make_sample(
                make_labels(seed + 10 + i, ignored=0.8 if given else 1.1),
                hidden=make_labels(seed + 10 + i, ignored=0)) for i in range(unlabeled)
        ])
    return inputs, data_samples
