# Licensed under the Apache License, Version 2.0.
# MaskFormer's: AdamW, a tenth of the learning rate for the backbone, no decay of embeddings, the
# gradient clipped over the full model, poly decay.
_base_ = './schedule_40k.py'
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-4),
    clip_grad=dict(max_norm=0.01, norm_type=2),
    paramwise_cfg=dict(
        custom_keys={
            'backbone': dict(lr_mult=0.1),
            # Embeddings; MaskFormer has the first, Mask2Former all three.
            'query_embed': dict(decay_mult=0.0),
            'query_feat': dict(decay_mult=0.0),
            'level_embed': dict(decay_mult=0.0),
        }))
