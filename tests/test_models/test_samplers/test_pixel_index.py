# Licensed under the Apache License, Version 2.0.
"""The class-sorted pixel index against a loop over pixels."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_reco.models.samplers import build_pixel_index

NOT_VALID = (-100, -1, 255)


def assert_index_matches_loop(labels, hard, num_classes):
    index = build_pixel_index(labels, hard, num_classes)
    order, start, count, hard_count = (field.tolist() for field in index)
    assert index._fields == ('order', 'start', 'count', 'hard_count')
    assert [len(start), len(count), len(hard_count)] == [num_classes] * 3
    assert sorted(order) == list(range(len(labels)))
    for c in range(num_classes):
        members = [i for i, label in enumerate(labels.tolist()) if label == c]
        hard_members = [i for i in members if hard[i]]
        assert count[c] == len(members)
        assert hard_count[c] == len(hard_members)
        block = order[start[c]:start[c] + count[c]]
        assert sorted(block) == members
        assert sorted(block[:hard_count[c]]) == hard_members


@settings(max_examples=100)
@given(st.data())
def test_index_equals_loop(data):
    num_classes = data.draw(st.integers(1, 6), label='num_classes')
    values = st.one_of(st.integers(0, num_classes - 1),
                       st.sampled_from((num_classes, ) + NOT_VALID))
    pixels = data.draw(st.lists(st.tuples(values, st.booleans()), min_size=1, max_size=40))
    labels = torch.tensor([label for label, _ in pixels])
    hard = torch.tensor([flag for _, flag in pixels])
    assert_index_matches_loop(labels, hard, num_classes)


@pytest.mark.parametrize('value', NOT_VALID + (3, ))
def test_no_valid_pixel(value):
    labels = torch.full((7, ), value)
    index = build_pixel_index(labels, torch.ones(7, dtype=torch.bool), 3)
    assert index.count.tolist() == [0, 0, 0]
    assert index.hard_count.tolist() == [0, 0, 0]


def test_many_classes_and_pixels():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(-1, 152, (5000, ), generator=generator)
    hard = torch.rand(5000, generator=generator) < 0.3
    assert_index_matches_loop(labels, hard, 150)


def test_tensors_are_int64_and_inputs_untouched():
    labels, hard = torch.tensor([1, 0, 255, 1]), torch.tensor([False, True, True, True])
    labels_before, hard_before = labels.clone(), hard.clone()
    index = build_pixel_index(labels, hard, 2)
    assert all(field.dtype == torch.int64 for field in index)
    assert torch.equal(labels, labels_before) and torch.equal(hard, hard_before)
