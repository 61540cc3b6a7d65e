# Licensed under the Apache License, Version 2.0.
import pytest
import torch
from mmseg.models.decode_heads import DepthwiseSeparableASPPHead, FCNHead

from mmseg_reco.models import FeatureTap


def fcn_head(dropout_ratio=0.):
    torch.manual_seed(0)
    return FCNHead(
        in_channels=6, channels=5, num_convs=1, concat_input=False, num_classes=3,
        dropout_ratio=dropout_ratio)


def aspp_head():
    torch.manual_seed(0)
    return DepthwiseSeparableASPPHead(
        in_channels=6, channels=4, dilations=(1, 2), c1_in_channels=3, c1_channels=2, in_index=1,
        num_classes=3, dropout_ratio=0).eval()


def test_default_tap_reads_what_the_classifier_reads():
    head, inputs = fcn_head(), [torch.randn(2, 6, 7, 9)]
    with FeatureTap(head) as tap:
        logits = head(inputs)
    assert tap.features.shape == (2, 5, 7, 9) and tap.channels == 5
    torch.testing.assert_close(head.conv_seg(tap.features), logits)


def test_named_tap_reads_the_concatenation_of_deeplabv3plus():
    head = aspp_head()
    inputs = [torch.randn(2, 3, 16, 20), torch.randn(2, 6, 4, 5)]
    with FeatureTap(head, 'sep_bottleneck') as tap:
        logits = head(inputs)
    assert tap.features.shape == (2, 4 + 2, 16, 20) and tap.channels == 6
    torch.testing.assert_close(head.cls_seg(head.sep_bottleneck(tap.features)), logits)
    # The second part of the concatenation is the low-level branch.
    torch.testing.assert_close(tap.features[:, 4:], head.c1_bottleneck(inputs[0]))


def test_tap_passes_gradients():
    head, inputs = fcn_head(), torch.randn(2, 6, 7, 9, requires_grad=True)
    with FeatureTap(head) as tap:
        head([inputs])
    tap.features.sum().backward()
    assert inputs.grad.abs().sum() > 0 and head.conv_seg.weight.grad is None


def test_head_is_untouched_outside_the_block():
    head = fcn_head()
    tap = FeatureTap(head)
    head([torch.randn(1, 6, 4, 4)])
    assert tap.features is None
    with tap, pytest.raises(RuntimeError, match='channels'):
        head([torch.randn(1, 7, 4, 4)])
    assert not head.conv_seg._forward_pre_hooks


def test_a_missing_part_is_refused_with_the_parts_there_are():
    with pytest.raises(ValueError, match='FCNHead has no submodule "sep_bottleneck".*conv_seg'):
        FeatureTap(fcn_head(), 'sep_bottleneck')


def test_output_tap_reads_what_a_part_returns():
    head, inputs = fcn_head(), [torch.randn(2, 6, 7, 9)]
    with FeatureTap(head, 'convs', output=True) as tap:
        logits = head(inputs)
    torch.testing.assert_close(head.conv_seg(tap.features), logits)
    assert not head.convs._forward_hooks
