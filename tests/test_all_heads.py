# Licensed under the Apache License, Version 2.0.
"""Every model family that ships with mmseg 1.2.2, wrapped with the README's line and stepped.

The networks are the shipped configs, narrowed: same classes, heads, necks, losses and samplers,
fewer channels, 4 classes, small images.
"""
import functools
from pathlib import Path
from typing import NamedTuple

import mmseg
import numpy as np
import pytest
import torch
from mmcv.cnn.bricks.drop import DropPath
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.structures import PixelData
from mmengine.utils import digit_version
from mmseg.datasets.transforms import GenerateEdge
from mmseg.models import decode_heads
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from mmseg_reco.engine.hooks.mean_teacher_hook import update_teacher
from mmseg_reco.models.heads import default_tap
from mmseg_reco.models.segmentors.embedding_encoder_decoder import (
    EmbeddingMixin,
    average_over_labels,
)
from mmseg_reco.models.segmentors.query_encoder_decoder import QUERY_HEADS

CONFIGS = Path(mmseg.__file__).parent / '.mim/configs'
NUM_CLASSES = 4

class Case(NamedTuple):
    """A shipped config, and how it is made small.

    Attributes:
        config: Its path.
        by: Channels are divided by it.
        size: Of the images.
        change: Further changes of the segmentor.
    """

    config: str
    by: int = 8
    size: tuple[int, int] = (64, 64)
    change: dict = {}

    @property
    def family(self) -> str:
        return self.config.split('/')[0]


def r50(family: str, name: str | None = None, **change) -> Case:
    return Case(f'{family}/{name or family}_r50-d8_4xb4-80k_ade20k-512x512.py', change=change)


#: BEiT and MAE know one size of images.
SMALL = dict(backbone=dict(img_size=(64, 64)))
ONE_CHANNEL = dict(
    num_classes=2, out_channels=1, loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True))

#: One of each family.
CASES = [
    r50('ann'),
    r50('apcnet'),
    Case('beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py', 16, change=SMALL),
    Case('bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024.py', 4),
    Case('bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py', 4),
    r50('ccnet'),
    Case('cgnet/cgnet_fcn_4xb4-60k_cityscapes-680x680.py', 4),
    Case('convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py', change=dict(
        backbone=dict(arch=dict(_delete_=True, depths=[1] * 4, channels=[12, 24, 48, 96])))),
    r50('danet'),
    Case('ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py', 4),
    r50('deeplabv3'),
    r50('deeplabv3plus'),
    r50('dmnet'),
    r50('dnlnet', 'dnl'),
    Case('dpt/dpt_vit-b16_8xb2-160k_ade20k-512x512.py', 16),
    Case('dsdl/voc.py'),
    Case('emanet/emanet_r50-d8_4xb2-80k_cityscapes-769x769.py'),
    r50('encnet'),
    Case('erfnet/erfnet_fcn_4xb4-160k_cityscapes-512x1024.py', 1),
    Case('fastfcn/fastfcn_r50-d32_jpu_psp_4xb4-80k_ade20k-512x512.py'),
    Case('fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py', 1),
    r50('fcn'),
    r50('gcnet'),
    Case('hrnet/fcn_hr18s_4xb4-80k_ade20k-512x512.py', 1),
    Case('icnet/icnet_r50-d8_4xb2-80k_cityscapes-832x832.py'),
    r50('isanet'),
    Case('knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py'),
    Case('mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py', 16, change=SMALL),
    Case('mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py'),
    Case('maskformer/maskformer_r50-d32_8xb2-160k_ade20k-512x512.py'),
    Case('mobilenet_v2/mobilenet-v2-d8_fcn_4xb4-160k_ade20k-512x512.py', 1,
         change=dict(decode_head=dict(channels=16))),
    # LRASPP pools 49 x 49 of the last map
    Case('mobilenet_v3/mobilenet-v3-d8-scratch-s_lraspp_4xb4-320k_cityscapes-512x1024.py', 1,
         (400, 400)),
    r50('nonlocal_net', 'nonlocal'),
    Case('ocrnet/ocrnet_hr18s_4xb4-80k_ade20k-512x512.py', 1),
    Case('pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py', 4),
    Case('point_rend/pointrend_r50_4xb4-160k_ade20k-512x512.py'),
    Case('poolformer/fpn_poolformer_s12_8xb4-40k_ade20k-512x512.py', change=dict(
        backbone=dict(arch=dict(_delete_=True, layers=[1] * 4, embed_dims=[8, 16, 40, 64],
                                mlp_ratios=[4] * 4, layer_scale_init_value=1e-5)))),
    r50('psanet', decode_head=dict(mask_size=(8, 8))),
    r50('pspnet'),
    Case('resnest/resnest_s101-d8_fcn_4xb4-160k_ade20k-512x512.py'),
    Case('san/san-vit-b16_voc12aug-640x640.py'),
    Case('segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py', 4),
    Case('segmenter/segmenter_vit-s_mask_8xb1-160k_ade20k-512x512.py', 16, (64, 96)),
    Case('segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py', 4),
    Case('sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py'),
    Case('setr/setr_vit-l_pup_8xb2-160k_ade20k-512x512.py', 16),
    Case('stdc/stdc1_4xb12-80k_cityscapes-512x1024.py', 4),
    Case('swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py'),
    Case('twins/twins_pcpvt-s_fpn_fpnhead_8xb4-80k_ade20k-512x512.py'),
    Case('unet/unet-s5-d16_fcn_4xb4-40k_drive-64x64.py',
         change=dict(decode_head=ONE_CHANNEL, auxiliary_head=ONE_CHANNEL)),
    Case('upernet/upernet_r18_4xb4-80k_ade20k-512x512.py'),
    Case('vit/vit_deit-s16_upernet_8xb2-80k_ade20k-512x512.py', 16),
    Case('vpd/vpd_sd_4xb8-25k_nyu-480x480.py'),
]

#: Other heads, necks and encoders that share a family.
VARIANTS = [
    Case('bisenetv2/bisenetv2_fcn_4xb4-ohem-160k_cityscapes-1024x1024.py', 4),
    Case('fastfcn/fastfcn_r50-d32_jpu_aspp_4xb4-80k_ade20k-512x512.py'),
    Case('fastfcn/fastfcn_r50-d32_jpu_enc_4xb4-80k_ade20k-512x512.py'),
    Case('icnet/icnet_r18-d8_4xb2-80k_cityscapes-832x832.py'),
    Case('knet/knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-512x512.py'),
    Case('knet/knet-s3_swin-l_upernet_8xb2-adamw-80k_ade20k-512x512.py'),
    Case('mask2former/mask2former_swin-t_8xb2-160k_ade20k-512x512.py'),
    Case('maskformer/maskformer_swin-t_upernet_8xb2-160k_ade20k-512x512.py'),
    Case('mobilenet_v2/mobilenet-v2-d8_deeplabv3plus_4xb4-160k_ade20k-512x512.py', 1,
         change=dict(decode_head=dict(channels=16))),
    Case('ocrnet/ocrnet_r101-d8_4xb2-40k_cityscapes-512x1024.py'),
    Case('resnest/resnest_s101-d8_deeplabv3plus_4xb4-160k_ade20k-512x512.py'),
    Case('segmenter/segmenter_vit-s_fcn_8xb1-160k_ade20k-512x512.py', 16),
    Case('setr/setr_vit-l-mla_8xb1-160k_ade20k-512x512.py', 16),
    Case('setr/setr_vit-l_naive_8xb2-160k_ade20k-512x512.py', 16),
    Case('twins/twins_svt-s_uperhead_8xb2-160k_ade20k-512x512.py'),
    Case('unet/unet-s5-d16_deeplabv3_4xb4-40k_drive-64x64.py'),
    Case('unet/unet-s5-d16_fcn_4xb4-ce-1.0-dice-3.0-40k_drive-64x64.py'),
    Case('unet/unet-s5-d16_pspnet_4xb4-40k_drive-64x64.py'),
    Case('vit/vit_vit-b16_mln_upernet_8xb2-80k_ade20k-512x512.py', 16),
]


class Group(NamedTuple):
    """A row of the README's table.

    Attributes:
        title: Of the row.
        members: Decode heads, or families, in it.
        tap: Submodule of the decode head whose input is read; None where none is.
        read: The same in words.
        note: What to know.
    """

    title: str
    members: tuple[str, ...]
    tap: str | None
    read: str
    note: str


REFUSED = dict(san='text encoder', vpd='depth')
GROUPS = [
    Group('Refused', tuple(REFUSED), None, '',
          'san classifies masks by the text encoder of CLIP, vpd estimates depth'),
    Group('Encoders of mmpretrain', ('convnext', 'poolformer'), 'conv_seg',
          'what enters `conv_seg`',
          'skipped where mmpretrain or its torchvision is missing; the second line names both: '
          "`imports=['mmpretrain.models', 'mmseg_reco']`"),
    Group('Queries', ('MaskFormerHead', 'Mask2FormerHead'), None, 'the map of the pixel decoder',
          'RC²L with all four terms, or ReCo; ignored pixels take no part in the set loss; needs '
          'mmdet'),
    Group('Class tokens', ('SegmenterMaskTransformerHead', ), 'patch_proj',
          'what enters `patch_proj`', ''),
    Group('Kernels', ('IterativeDecodeHead', ), 'kernel_generate_head.conv_seg',
          'what enters `kernel_generate_head.conv_seg`', 'pseudo-labels are of the last stage'),
    Group('Cascades', ('FCNHead + OCRHead', 'FPNHead + PointHead'), 'conv_seg',
          'what enters `conv_seg` of the last head with a map',
          'PointRend predicts, and labels, with its refined points'),
    Group('Several maps', ('DAHead', 'DDRHead', 'EncHead', 'PIDHead'), 'conv_seg',
          'what enters `conv_seg`',
          'pseudo-labels are of the map that the head predicts from; pidnet: `GenerateEdge` in the '
          'pipeline, as in its config'),
    Group('One map', (), 'conv_seg', 'what enters `conv_seg`',
          'beit, mae: crops of `img_size`; mobilenet_v3: crops from 400 × 400; stdc: the edges '
          'that an auxiliary head learns are those of ignored pixels, too; segnext: its head draws '
          'random bases in every forward pass, so mIoU varies from test to test'),
]


@functools.cache
def load(case_config: str) -> Config:
    return Config.fromfile(CONFIGS / case_config, import_custom_modules=False)


def head_of(case: Case) -> str:
    """Its decode head, or those of its cascade."""
    heads = load(case.config).model.decode_head
    return ' + '.join(head.type for head in (heads if isinstance(heads, list) else [heads]))


def group_of(case: Case) -> Group:
    names = {head_of(case), case.family}
    return next((group for group in GROUPS if names & {*group.members}), GROUPS[-1])


def wrapped(case: Case, folder: Path) -> Config:
    """The five lines on a shipped config, which is then made small."""
    imports = ['mmseg_reco']
    if group_of(case).title == 'Queries':
        pytest.importorskip('mmdet')
    if group_of(case).title == 'Encoders of mmpretrain':
        try:
            import mmpretrain.models  # noqa: F401
        except Exception as error:  # a torchvision that does not fit raises RuntimeError
            pytest.skip(f'the encoder is in mmpretrain, which needs torchvision: {error}')
        imports.append('mmpretrain.models')
    path = folder / 'semi.py'
    path.write_text(
        f"_base_ = 'mmseg::{case.config}'\n"
        f'custom_imports = dict(imports={imports})\n'
        "model = dict(_delete_=True, type='MeanTeacherReCo', segmentor=_base_.model)\n")
    config = Config.fromfile(path)
    narrow(config.model.segmentor, case.by)
    config.merge_from_dict(dict(model=dict(segmentor=dict(case.change))))
    config.model.segmentor.data_preprocessor.size = case.size
    return config


def narrow(node: dict, by: int) -> None:
    """Divide all channels; fewer classes; nothing pretrained, nothing dropped."""

    def divide(value):
        if isinstance(value, (list, tuple)):
            return type(value)(map(divide, value))
        return value // by if isinstance(value, int) and value > by else value

    for key, value in list(node.items()):
        if key.endswith(('channels', 'embed_dims', 'embed_dim', 'num_feats')):
            node[key] = divide(value)
        elif key == 'num_classes':
            node[key] = min(value, NUM_CLASSES)
        elif key == 'class_weight' and value:
            # query heads weigh "no object" last
            extra = value[-1:] if node['type'].startswith('mmdet.') else []
            node[key] = value[:NUM_CLASSES] + extra
        elif key == 'pretrained' or key == 'init_cfg' and 'checkpoint' in (value or ()):
            node[key] = None
        elif key in ('drop_path_rate', 'drop_rate', 'dropout_ratio') and value > 0:
            node[key] = 1e-9  # some heads want one above 0
        elif isinstance(value, dict):
            narrow(value, by)
        elif isinstance(value, (list, tuple)):
            for entry in value:
                if isinstance(entry, dict):
                    narrow(entry, by)
    if str(node.get('type')).startswith(('ResNetV1', 'ResNet')):  # channels as R50's over ``by``
        node.update(depth=18, base_channels=(64 if node['depth'] == 18 else 256) // by)
    elif node.get('type') == 'ResNeSt':
        node.update(depth=50, base_channels=64 // by)


def make_batch(size: tuple[int, int], num_classes: int) -> dict:
    """Two labelled and two unlabelled images, as the loader of multi-branch samples gives them."""
    generator = np.random.default_rng(0)
    inputs, samples = [], []
    for _ in range(4):
        coarse = generator.integers(0, 2, (size[0] // 16, size[1] // 16))
        labels = coarse.repeat(16, 0).repeat(16, 1)
        labels[:size[0] // 2] += 2
        labels %= num_classes
        image = generator.integers(0, 60, (3, *size)) + 50 * labels
        labels[:3] = 255
        edges = GenerateEdge(edge_width=4)(dict(
            gt_seg_map=labels.astype(np.uint8), img_shape=size))
        sample = SegDataSample(metainfo=dict(
            img_shape=size, ori_shape=size, pad_shape=size, scale_factor=(1., 1.), flip=False))
        sample.gt_sem_seg = PixelData(data=torch.as_tensor(labels)[None])
        sample.gt_edge_map = PixelData(
            data=torch.as_tensor(edges['gt_edge_map'].astype(np.int64))[None])
        inputs.append(torch.as_tensor(image.astype(np.uint8)))
        samples.append(sample)
    for sample in samples[2:]:
        sample.gt_sem_seg.data.fill_(255)
    return {name: dict(sup=[*values[:2], None, None], unsup=[None, None, *values[2:]])
            for name, values in dict(inputs=inputs, data_samples=samples).items()}


def build(config: dict) -> torch.nn.Module:
    return revert_sync_batchnorm(MODELS.build(config))


def prepare(case: Case, folder: Path):
    """The stock segmentor, and the same one wrapped, with its weights."""
    config = wrapped(case, folder)
    torch.manual_seed(0)
    stock = build(config.model.segmentor)
    stock.init_weights()
    config.model.semi_train_cfg = dict(weak_threshold=0.)  # a random teacher is sure of nothing
    if type(stock.decode_head).__name__ in QUERY_HEADS:
        config.model.type = 'RC2L'
    else:
        config.model.update(
            projector=dict(channels=32, embed_dims=8),
            loss_unsup=dict(type='PseudoLabelLoss', strong_threshold=0.),
            losses=[
                dict(type='ReCoLoss', strong_threshold=0.5, num_queries=16, num_negatives=16),
                dict(type='RegionFeatureContrastiveLoss'),
                dict(type='SemanticMaskConsistencyLoss')
            ])
    model = build(config.model)
    missing, unexpected = model.load_state_dict(stock.state_dict(), strict=False)
    assert not unexpected and all(key.split('.')[1] == 'projector' for key in missing)
    return stock.train(), model.train()


def check_step(stock, model, size) -> None:
    batch = model.data_preprocessor(make_batch(size, model.num_classes), True)
    inputs, samples = batch['inputs']['sup'], batch['data_samples']['sup']
    average_over_labels(stock)
    torch.manual_seed(1)
    expected = stock.loss(inputs, samples)
    stock.parse_losses(expected)[0].backward()
    if isinstance(model.student, EmbeddingMixin):
        # query heads leave ignored pixels out, which the stock's do not
        torch.manual_seed(1)
        with torch.no_grad():
            given = model.student.supervised_losses(model.student.forward_dense(inputs), samples)
        torch.testing.assert_close(given, expected)

    losses = model.loss(**batch)
    assert {f'sup.{name}' for name in expected} < set(losses)
    total, _ = model.parse_losses(losses)
    assert total.isfinite()
    total.backward()
    student = dict(model.student.named_parameters())
    for name, parameter in stock.named_parameters():
        if parameter.grad is not None:
            assert student[name].grad is not None and student[name].grad.isfinite().all(), name
            assert not parameter.grad.any() or student[name].grad.any(), name
    for name, parameter in student.items():
        assert not name.startswith('projector.') or parameter.grad.any(), name
    assert all(parameter.grad is None for parameter in model.teacher.parameters())

    torch.optim.SGD(model.student.parameters(), lr=0.01).step()
    before = [parameter.clone() for parameter in model.teacher.parameters()]
    update_teacher(model.student, model.teacher, 0.5)
    for old, new, other in zip(before, model.teacher.parameters(), model.student.parameters(),
                               strict=True):
        torch.testing.assert_close(new, (old + other) / 2)

    # the stock class with the teacher's weights predicts the same
    stock.load_state_dict({name: value for name, value in model.teacher.state_dict().items()
                           if not name.startswith('projector.')})
    stock.eval(), model.eval()
    with torch.no_grad():
        predictions = [network.predict(inputs, samples) for network in (model, stock)]
        for ours, theirs in zip(*predictions, strict=True):
            torch.testing.assert_close(
                ours.seg_logits.data, theirs.seg_logits.data, rtol=0, atol=0)
            assert ours.seg_logits.data.isfinite().all()


def check_maps(model, size, tap_name, exact) -> None:
    """What is read is what the head classifies, and what teaches is what the head predicts from."""
    student, head = model.student, model.student.heads[-1]
    assert default_tap(head) == tap_name
    inputs, metas = torch.randn(2, 3, *size), [dict(img_shape=size)] * 2
    with torch.no_grad():
        predicted = student.eval().predict_dense(inputs, metas, embed=True)
        assert predicted.embeddings.shape[:2] == (2, 8)
        student.train()
        for module in student.modules():
            if isinstance(module, (_BatchNorm, _DropoutNd, DropPath)):
                module.eval()
        with student.open_tap() as tap:
            trained = student.forward_dense(inputs)
        logits = student.class_logits(trained)
        assert trained.embeddings.shape[-2:] == logits.shape[-2:]
        if tap_name == 'conv_seg':
            own = logits[:, -head.out_channels:]  # one channel scores the second class
            torch.testing.assert_close(head.conv_seg(tap.features), own)
        if exact:
            torch.testing.assert_close(
                model.resize(logits, inputs), student.class_logits(predicted))


def name_of(case: Case) -> str:
    return Path(case.config).stem if case in VARIANTS else case.family


@pytest.mark.parametrize(
    'case', [case for case in CASES + VARIANTS if case.family not in REFUSED], ids=name_of)
def test_a_semi_supervised_step(case, tmp_path):
    if case.family == 'dnlnet' and digit_version(torch.__version__) < digit_version('2.6'):
        pytest.skip("mmseg's own DNLHead has no backward pass on torch 2.1; on 2.6 it has")
    stock, model = prepare(case, tmp_path)
    check_step(stock, model, case.size)
    tap = group_of(case).tap
    assert isinstance(model.student, EmbeddingMixin) == (tap is not None)
    if tap is not None:
        # PointRend's map is refined in prediction, SegNeXt's head takes one more step there
        check_maps(model, case.size, tap, case.family not in ('point_rend', 'segnext'))


@pytest.mark.parametrize('family, reason', REFUSED.items())
def test_refused_with_a_reason(family, reason, tmp_path):
    config = wrapped(next(case for case in CASES if case.family == family), tmp_path)
    with pytest.raises(ValueError, match=reason):
        build(config.model)


def test_the_five_lines_alone_train_a_query_head(tmp_path):
    case = next(case for case in CASES if case.family == 'maskformer')
    model = build(wrapped(case, tmp_path).model).train()
    losses = model.loss(**model.data_preprocessor(make_batch(case.size, NUM_CLASSES), True))
    assert {'loss_reco', 'loss_unsup'} <= set(losses)
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.isfinite()


def heads_of(node) -> list[str]:
    """Types of the decode heads in a config, in order."""
    if isinstance(node, (list, tuple)):
        return [name for entry in node for name in heads_of(entry)]
    if not isinstance(node, dict):
        return []
    own = [node['type']] if node.get('type') in decode_heads.__all__ else []
    return own + [name for value in node.values() for name in heads_of(value)]


def support_table() -> str:
    """The README's table."""
    rows = {group.title: {} for group in reversed(GROUPS)}
    for case in sorted([*CASES, *VARIANTS], key=lambda case: (head_of(case), case.family)):
        families = rows[group_of(case).title].setdefault(head_of(case), [])
        if case.family not in families:
            families.append(case.family)
    lines = ['| | Decode heads (families) | Read | Note |', '| --- | --- | --- | --- |']
    for group in reversed(GROUPS):
        heads = ', '.join(f'{head} ({", ".join(families)})'
                          for head, families in rows[group.title].items())
        lines.append(f'| {group.title} | {heads} | {group.read} | {group.note} |')
    return '\n'.join(lines)


def test_no_family_and_no_head_is_forgotten():
    shipped = {path.name for path in CONFIGS.iterdir() if path.is_dir()} - {'_base_'}
    assert [case.family for case in CASES] == sorted(shipped)
    tested = {head for case in CASES + VARIANTS for head in heads_of(load(case.config).to_dict())}
    assert set(decode_heads.__all__) <= tested


def test_the_readme_has_this_table():
    readme = (Path(__file__).resolve().parents[1] / 'README.md').read_text()
    assert support_table() in readme, f'put this table into README.md:\n{support_table()}'
