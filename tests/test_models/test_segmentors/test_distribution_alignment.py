# Licensed under the Apache License, Version 2.0.
import copy

import numpy as np
import pytest
import torch
from gloo import run_ranks
from mmengine.logging import MessageHub
from mmseg.registry import MODELS
from tiny_segmentor import NUM_CLASSES, make_batch, segmentor_config

from mmseg_reco.models.segmentors.distribution_alignment import DistributionAlignment


def random_probs(seed, classes=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, classes, 4, 5, generator=generator).softmax(1)


def test_equals_the_loop():
    """A mean over all labels; over predictions too, until the momentum is more than 1/n."""
    align = DistributionAlignment(3, 'labeled', momentum=0.4)
    target, found = np.zeros(3), np.zeros(3)
    for step in range(1, 6):
        generator = torch.Generator().manual_seed(step)
        labels = torch.randint(0, 4, (2, 4, 5), generator=generator)
        labels[labels == 3] = 255
        align.count(labels)
        shares = np.array([(labels == c).sum().item() for c in range(3)])
        target += (shares / shares.sum() - target) / step

        probs = random_probs(step)
        align.observe(probs)
        aligned = align(probs)
        shares = probs.sum((0, 2, 3)).double().numpy()
        found += max(1 / step, 0.4) * (shares / shares.sum() - found)
        expected = probs.double().numpy() * (target / found)[:, None, None]
        expected /= expected.sum(1, keepdims=True)
        np.testing.assert_allclose(aligned.numpy(), expected, rtol=1e-4)


def aligned_rank(rank, world_size=2):
    align = DistributionAlignment(3, 'labeled', momentum=0.4, exact=True)
    for step in range(3):
        labels = torch.randint(0, 3, (2, 4, 5), generator=torch.Generator().manual_seed(step))
        labels[0, :step] = 255  # unlike numbers of labels
        align.count(labels[rank::world_size])
        align.observe(random_probs(step)[rank::world_size])
    return align.target, align.found, align.aligned, align.correction


def test_frequencies_are_those_of_all_ranks():
    whole = aligned_rank(0, world_size=1)
    for rank in run_ranks(aligned_rank):
        torch.testing.assert_close(rank, whole)


def test_frequencies_become_those_wanted_where_classes_cannot_be_told_apart():
    align = DistributionAlignment(3, [6., 3., 1.])
    probs = torch.tensor([0.2, 0.2, 0.6])[:, None, None].expand(2, 3, 4, 5)
    align.observe(probs)
    aligned = align(probs)
    np.testing.assert_allclose(aligned.mean((0, 2, 3)).numpy(), [0.6, 0.3, 0.1], rtol=1e-4)


def sure_probs(seed):
    """One pixel in five is of class 1 by 0.99, the others of class 0 by as much."""
    sure = torch.rand(2, 40, 50, generator=torch.Generator().manual_seed(seed)) < 0.2
    return torch.where(sure[:, None], torch.tensor([0.005, 0.99, 0.005])[:, None, None],
                       torch.tensor([0.99, 0.005, 0.005])[:, None, None])


def test_a_ratio_leaves_what_a_teacher_is_sure_of_and_its_correction_does_not():
    target = [0.94, 0.05, 0.01]
    ratio, exact = (DistributionAlignment(3, target, exact=exact) for exact in (False, True))
    for step in range(1000):
        for align in (ratio, exact):
            align.observe(sure_probs(step))
    share, corrected = (align(sure_probs(-1)).mean((0, 2, 3)) for align in (ratio, exact))
    assert share[1] > 0.15
    np.testing.assert_allclose(corrected.numpy(), target, rtol=0.2)  # batches vary


def test_the_correction_of_a_class_that_the_teacher_never_gives_is_bounded():
    align = DistributionAlignment(3, [0.7, 0.2, 0.1], momentum=0.1, exact=True)
    probs = sure_probs(0)
    probs[:, 2] = 0
    for _ in range(3000):
        align.observe(probs)
    assert align.correction.abs().max() == 7
    assert align(probs).isfinite().all()


def test_correction_equals_the_loop():
    align = DistributionAlignment(3, [6., 3., 1.], momentum=0.2, exact=True)
    target, correction = np.array([0.6, 0.3, 0.1]), np.zeros(3)
    found, mean = np.zeros(3), np.zeros(3)
    for step in range(1, 8):
        probs = random_probs(step)
        align.observe(probs)
        pixels = probs.double().movedim(1, -1).reshape(-1, 3).numpy()
        found += max(1 / step, 0.2) * (pixels.mean(0) - found)
        aligned = pixels * target / found * np.exp(correction)
        aligned /= aligned.sum(1, keepdims=True)
        mean += max(1 / step, 0.2) * (aligned.mean(0) - mean)
        missing = np.clip(np.log(target / mean), -1, 1)
        correction += 0.2 * (missing - missing.mean())
    np.testing.assert_allclose(align.correction.numpy(), correction, rtol=1e-3, atol=1e-5)
    expected = pixels * target / found * np.exp(correction)
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(align(probs).movedim(1, -1).reshape(-1, 3).numpy(), expected,
                               rtol=1e-3)


def test_right_frequencies_are_left_alone_and_given_labels_do_not_count_then():
    probs = random_probs(0)
    align = DistributionAlignment(3, probs.mean((0, 2, 3)).tolist())
    align.count(torch.zeros(2, 4, 5, dtype=torch.long))
    align.observe(probs)
    torch.testing.assert_close(align(probs), probs, rtol=1e-4, atol=0)


def test_batches_without_labels_and_classes_never_labelled_do_no_harm():
    align = DistributionAlignment(3, 'labeled')
    align.count(torch.full((2, 4, 5), 255))
    assert not align.target.any()
    align.count(torch.tensor([0, 1]).view(1, 1, 2))
    align.count(torch.full((2, 4, 5), 255))
    assert align.target.tolist() == [0.5, 0.5, 0]
    align.count(torch.tensor([0, 0]).view(1, 1, 2))
    assert align.target.tolist() == [0.75, 0.25, 0]
    align.observe(random_probs(0))
    aligned = align(random_probs(0))
    assert aligned.isfinite().all() and aligned[:, 2].max() < 1e-4


def test_large_batches_are_counted_to_the_last_pixel():
    """In float32 a count stays at 2^24."""
    align = DistributionAlignment(2, 'labeled')
    labels = torch.zeros(1, 5, 2**22, dtype=torch.long)
    labels[:, 0, :2**20] = 1
    align.count(labels)
    torch.testing.assert_close(align.target, torch.tensor([0.95, 0.05]))


def test_padding_does_not_count():
    """Against maps that are cut to the images."""
    model = build(class_frequencies=[1.] * NUM_CLASSES, exact_frequencies=True)
    inputs, samples = make_batch()
    seen = []
    probabilities = model.teacher.probabilities
    model.teacher.probabilities = lambda dense: seen.append(probabilities(dense)) or seen[-1]
    sizes = [(20, 30), (32, 40), (12, 40)]
    for sample, size in zip(samples['unsup'], sizes, strict=True):
        sample.set_metainfo(dict(img_shape=size))
    model.loss(inputs, samples)
    pixels = torch.cat([image[:, :height, :width].flatten(1) for image, (height, width) in zip(
        seen[0], sizes, strict=True)], 1)
    torch.testing.assert_close(model.align.found, pixels.mean(1))
    aligned = pixels / pixels.mean(1, keepdim=True)
    torch.testing.assert_close(
        model.align.aligned, (aligned / aligned.sum(0)).mean(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('target, message', [
    ('labels', "'labeled' or a list.*'labels'"),
    ([1., 1.], 'needs 4 positive numbers'),
    ([1., 1., 1., 0.], 'needs 4 positive numbers'),
])
def test_wrong_targets_are_refused(target, message):
    with pytest.raises(ValueError, match=f'semi_train_cfg.class_frequencies.*{message}'
                       if 'needs' in message else message):
        build(class_frequencies=target)


def build(**settings):
    torch.manual_seed(0)
    model = MODELS.build(dict(
        type='MeanTeacherReCo', segmentor=segmentor_config(), losses=[], semi_train_cfg=settings))
    model.init_weights()
    return model.train()


def test_pseudo_labels_follow_the_frequencies_and_buffers_are_saved():
    inputs, samples = make_batch()
    model = build(class_frequencies=[1., 1., 1., 1e4])
    batch, _ = model.pseudo_label(inputs['unsup'], copy.deepcopy(samples['unsup']))
    assert (batch.labels == 3).all()
    plain, _ = build().pseudo_label(inputs['unsup'], copy.deepcopy(samples['unsup']))
    assert (plain.labels != 3).any()
    other = build(class_frequencies='labeled')
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.align.found, model.align.found) and other.align.batches[1] == 1
    assert not [key for key in build().state_dict() if key.startswith('align')]


def test_the_correction_is_a_setting_and_is_saved_too():
    inputs, samples = make_batch()
    model = build(class_frequencies=[1., 1., 1., 2.], exact_frequencies=True)
    model.pseudo_label(inputs['unsup'], copy.deepcopy(samples['unsup']))
    assert model.align.correction.any()
    other = build(class_frequencies='labeled', exact_frequencies=True)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.align.correction, model.align.correction)


def test_a_correction_of_nothing_is_refused():
    with pytest.raises(ValueError, match='exact_frequencies.*class_frequencies'):
        build(exact_frequencies=True)


def test_labels_count_from_the_burn_in_on():
    inputs, samples = make_batch()
    model = build(class_frequencies='labeled', burn_in=5)
    MessageHub.get_current_instance().update_info('iter', 0)  # a test before may have trained
    model.loss(inputs, samples)
    labels = torch.cat([sample.gt_sem_seg.data for sample in samples['sup']])
    counts = torch.stack([(labels == c).sum() for c in range(NUM_CLASSES)])
    torch.testing.assert_close(model.align.target, counts / counts.sum())
    assert model.align.batches.tolist() == [1, 0]


def test_what_no_query_claims_stays_small():
    """Scores of a query head may add up to less than 1, which is their confidence."""
    probs = random_probs(0) * torch.rand(2, 1, 4, 5, generator=torch.Generator().manual_seed(1))
    probs[0, :, 0, 0] = 0
    align = DistributionAlignment(3, [6., 3., 1.])
    align.observe(probs)
    aligned = align(probs)
    torch.testing.assert_close(aligned.sum(1), probs.sum(1), rtol=1e-4, atol=1e-7)


def test_nothing_is_done_before_both_frequencies_are_known():
    probs = random_probs(0)
    align = DistributionAlignment(3, 'labeled')
    torch.testing.assert_close(align(probs), probs)
    align.observe(probs)
    torch.testing.assert_close(align(probs), probs)
    align.count(torch.tensor([0, 1, 1]).view(1, 1, 3))
    assert (align(probs)[:, 2] < 1e-4).all()
    fresh = DistributionAlignment(3, [6., 3., 1.])
    torch.testing.assert_close(fresh(probs), probs)


def test_looking_at_pseudo_labels_outside_of_training_counts_for_nothing():
    inputs, samples = make_batch()
    model = build(class_frequencies=[1., 1., 1., 1e4])
    model.pseudo_label(inputs['unsup'], copy.deepcopy(samples['unsup']))
    found = model.align.found.clone()
    model.eval()
    batch, _ = model.pseudo_label(inputs['unsup'][:1], copy.deepcopy(samples['unsup'][:1]))
    assert (batch.labels == 3).all()
    assert torch.equal(model.align.found, found) and model.align.batches[1] == 1
