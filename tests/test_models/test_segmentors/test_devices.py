# Licensed under the Apache License, Version 2.0.
"""A step on tensors of the meta device: what would mix devices, or wait for one, on a GPU."""
from contextlib import nullcontext

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.models.decode_heads import decode_head
from mmseg.registry import MODELS
from tiny_segmentor import make_batch, segmentor_config
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

RECO = dict(type='ReCoLoss', num_queries=8, num_negatives=16)
REGIONS = [dict(type='RegionMaskContrastiveLoss'), dict(type='SemanticMaskConsistencyLoss'),
           dict(type='RegionFeatureContrastiveLoss', cross_image_negatives=True)]
SURE = dict(type='BatchColorJitter', prob=1.), dict(type='BatchGaussianBlur', prob=1.)


class Devices(TorchDispatchMode):
    """Refuses operators on both devices, and copies between them that the host waits for.

    A mask as an index, ``item`` and ``nonzero`` fail on meta tensors by themselves.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        kinds = {tensor.device.type for tensor in tree_flatten((args, kwargs))[0]
                 if isinstance(tensor, torch.Tensor)
                 and (tensor.dim() or tensor.device.type == 'meta')}
        name = func._schema.name
        if name == 'aten::_to_copy' and kwargs.get('device') is not None:
            kinds.add(torch.device(kwargs['device']).type)
            assert len(kinds) == 1 or kwargs.get('non_blocking'), 'a copy that is waited for'
        else:
            assert len(kinds) <= 1, f'{name} of tensors on two devices'
        return func(*args, **kwargs)


@pytest.mark.parametrize('mistake, error', [
    (lambda values: values + torch.ones(2), AssertionError),
    (lambda values: torch.ones(2).to(values.device), AssertionError),
    (lambda values: values[values > 0], NotImplementedError),
    (lambda values: values.sum().item(), RuntimeError),
], ids=['two devices', 'copy', 'mask', 'item'])
def test_mistakes_are_seen(mistake, error):
    with Devices(), pytest.raises(error):
        mistake(torch.ones(2, device='meta'))


@pytest.mark.parametrize('settings', [
    dict(losses=[RECO]),
    dict(losses=[RECO], mix=dict(type='CutMix'), strong_augments=SURE, semi_train_cfg=dict(
        class_frequencies='labeled', supervise_both_halves=True, self_label_threshold=0.9)),
    dict(losses=[RECO, *REGIONS], mix=dict(type='CutOut')),
    dict(losses=[], mix=dict(type='RandomCutMix'), semi_train_cfg=dict(
        strong_views=2, feature_dropout=0.5), loss_unsup=dict(
            type='PseudoLabelLoss', weight_by='pixel', class_weight=[1., 2., 3., 4.])),
    dict(type='RC2L', losses=REGIONS, rescale_crop=dict(type='BatchRescaleCrop')),
], ids=['reco', 'both halves', 'regions', 'unimatch', 'rc2l'])
def test_a_step_neither_mixes_devices_nor_waits(settings, monkeypatch):
    monkeypatch.setattr(torch, 'autocast', lambda *args, **kwargs: nullcontext())  # knows no meta
    monkeypatch.setattr(decode_head, 'accuracy', lambda *args, **kwargs: torch.zeros(()))  # waits
    model = MODELS.build({'type': 'MeanTeacherReCo', **settings,
                          'segmentor': segmentor_config('GN')}).train().to('meta')
    inputs, samples = make_batch(given=True)
    inputs = {name: images.to('meta') for name, images in inputs.items()}
    for sample in samples['sup'] + samples['unsup']:
        for key in {'gt_sem_seg', 'hidden_sem_seg'} & set(sample.keys()):
            setattr(sample, key, PixelData(data=getattr(sample, key).data.to('meta')))
    with Devices():
        losses = model.loss(inputs, samples)
        sum(loss for name, loss in losses.items() if 'loss' in name).backward()
    assert all(weight.grad.device.type == 'meta' for weight in model.student.parameters())
