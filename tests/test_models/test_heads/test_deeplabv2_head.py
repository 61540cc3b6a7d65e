# Licensed under the Apache License, Version 2.0.
import torch
import torch.nn.functional as F

from mmseg_reco.models import DeepLabV2Head, FeatureTap


def build():
    torch.manual_seed(0)
    return DeepLabV2Head(in_channels=6, num_classes=3, in_index=0, dilations=(1, 3))


def test_logits_are_the_sum_of_dilated_classifiers():
    head, features = build(), torch.randn(2, 6, 9, 11)
    first, second = head.conv_seg.branches
    expected = F.conv2d(features, first.weight, first.bias, padding=1) + F.conv2d(
        features, second.weight, second.bias, padding=3, dilation=3)
    torch.testing.assert_close(head([features]), expected)


def test_paper_dilations_and_init():
    head = DeepLabV2Head(in_channels=64, num_classes=21, in_index=0)
    head.init_weights()
    branches = head.conv_seg.branches
    assert [branch.dilation for branch in branches] == [(6, 6), (12, 12), (18, 18), (24, 24)]
    for branch in branches:
        assert abs(branch.weight.std() - 0.01) < 0.001 and not branch.bias.any()


def test_default_tap_reads_the_backbone():
    head, features = build(), torch.randn(2, 6, 9, 11)
    with FeatureTap(head) as tap:
        head([features])
    assert tap.features is features and tap.channels == 6
