# Licensed under the Apache License, Version 2.0.
import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmseg_reco.datasets.splits import (
    read_names,
    select_by_class,
    select_labeled,
    select_random,
)

VOC = Path('../shared/data/voc_masks')


def random_world(seed, num_images=60, num_classes=7):
    """Images with few classes, some of them rare; class 3 is shown by nobody."""
    rng = random.Random(f'world {seed}')
    names = [f'image {index:02d}' for index in range(num_images)]
    probability = [0.9, 0.5, 0.4, 0.0, 0.3, 0.15, 0.1][:num_classes]
    class_sets = {
        name: {index for index in range(num_classes) if rng.random() < probability[index]}
        for name in names
    }
    return names, class_sets


def labeled_by_plain_loop(names, class_sets, num_labeled, seed, min_classes, num_classes):
    """The rule of the paper with the counters of its text; None where it would never end."""
    random.seed(seed)
    todo = list(names)
    random.shuffle(todo)
    times_labeled = np.zeros(num_classes)
    aside, chosen = [], []
    for _ in range(20 * len(names)):
        if len(chosen) == num_labeled:
            return chosen
        if not todo:
            todo, aside = aside, []
        if not todo:
            return None
        name = todo[-1]
        todo = todo[:-1]
        present = sorted(class_sets[name])
        covers = any(times_labeled[index] == times_labeled.min() for index in present)
        if len(present) >= min_classes and (covers or not chosen):
            chosen.append(name)
            times_labeled[present] += 1
        else:
            aside.append(name)
    return None


def by_class_by_plain_loop(names, class_sets, num_labeled, seed, num_classes):
    random.seed(seed)
    shuffled = list(names)
    random.shuffle(shuffled)
    queues = [
        [name for name in shuffled if index in class_sets[name]] for index in range(num_classes)
    ]
    times_labeled = [0] * num_classes
    chosen = []
    while len(chosen) < num_labeled:
        open_classes = [index for index in range(num_classes) if queues[index]]
        if not open_classes:
            return None
        least = min(times_labeled[index] for index in open_classes)
        first = next(index for index in open_classes if times_labeled[index] == least)
        name = queues[first].pop()
        if name not in chosen:
            chosen.append(name)
            for index in class_sets[name]:
                times_labeled[index] += 1
    return chosen


def test_labeled_equals_the_plain_loop():
    outcomes = set()
    for world in range(12):
        names, class_sets = random_world(world)
        # the loop's counters must not wait for the class that no image shows
        shown = sorted(set().union(*class_sets.values()))
        dense = {name: {shown.index(c) for c in classes} for name, classes in class_sets.items()}
        for num_labeled, min_classes in ((4, 1), (10, 2), (25, 2), (12, 3)):
            arguments = (num_labeled, world, min_classes)
            expected = labeled_by_plain_loop(names, dense, *arguments, len(shown))
            outcomes.add(expected is None)
            if expected is None:
                with pytest.raises(ValueError, match='could be chosen'):
                    select_labeled(names, class_sets, *arguments)
            else:
                assert select_labeled(names, class_sets, *arguments) == expected
    assert outcomes == {True, False}  # both cases were met


@pytest.fixture(scope='module')
def voc():
    if not VOC.is_dir():
        pytest.skip(f'no VOC masks in {VOC}')
    names = read_names(str(VOC / 'train.txt'))
    masks = (np.array(Image.open(VOC / f'SegmentationClassAug/{name}.png')) for name in names)
    return names, {
        name: set(np.unique(mask).tolist()) - {255} for name, mask in zip(names, masks, strict=True)
    }


def test_equals_the_lists_of_the_paper(voc):
    expected = json.loads((VOC / 'splits_expected.json').read_text())
    assert len(expected) == 12
    for key, labeled in expected.items():
        num_labeled, seed = map(int, key.split('_'))
        assert select_labeled(*voc, num_labeled, seed, min_classes=3) == labeled


def test_impossible_split_of_voc_names_the_class(voc):
    class_names = tuple('abcdefghijklmnopqrstu')
    with pytest.raises(ValueError, match=r'Only 27 of 30 .*class 3 \(d\), class 10 \(k\)'):
        select_labeled(*voc, 30, 0, min_classes=3, class_names=class_names)


def test_impossible_split_names_the_class():
    class_sets = {'a': {0, 1}, 'b': {0, 1}, 'c': {2}}
    with pytest.raises(ValueError, match=r'none of the 2 images .*labelled: class 2\.'):
        select_labeled(['a', 'b', 'c'], class_sets, 2, seed=0, min_classes=2)
    with pytest.raises(ValueError, match='least labelled: class 0, class 1, class 2'):
        select_labeled(['a', 'b', 'c'], class_sets, 1, seed=0, min_classes=3)


def test_by_class_equals_the_plain_loop():
    for world in range(12):
        names, class_sets = random_world(world)
        for num_labeled in (3, 12, 40):
            expected = by_class_by_plain_loop(names, class_sets, num_labeled, world, 7)
            assert expected is not None
            assert select_by_class(names, class_sets, num_labeled, world) == expected


def test_by_class_needs_images_with_classes():
    with pytest.raises(ValueError, match='Only 1 of the 2 listed images'):
        select_by_class(['a', 'b'], {'a': {0}, 'b': set()}, 2, seed=0)


def test_random_is_seeded_and_nested():
    names = [str(index) for index in range(50)]
    chosen = select_random(names, 20, seed=1)
    assert len(set(chosen)) == 20 and set(chosen) <= set(names)
    assert chosen == select_random(names, 20, seed=1)
    assert chosen != select_random(names, 20, seed=2)
    assert select_random(names, 5, seed=1) == chosen[:5]
    assert names == [str(index) for index in range(50)]


@pytest.mark.parametrize('num_labeled', [0, -1, 4])
def test_number_out_of_range(num_labeled):
    class_sets = dict.fromkeys('abc', {0})
    for select in (
        lambda: select_random('abc', num_labeled, 0),
        lambda: select_labeled('abc', class_sets, num_labeled, 0),
        lambda: select_by_class('abc', class_sets, num_labeled, 0),
    ):
        with pytest.raises(ValueError, match='between 1 and 3'):
            select()


def test_refuses_duplicates_and_min_classes_below_one():
    with pytest.raises(ValueError, match="'a' more than once"):
        select_random(['a', 'b', 'a'], 1, 0)
    with pytest.raises(ValueError, match='min_classes'):
        select_labeled(['a'], {'a': {0}}, 1, 0, min_classes=0)


def test_read_names_of_both_forms(tmp_path):
    path = tmp_path / 'list.txt'
    path.write_text(
        'plain\ncity/with_folder\nwith space\n\n'
        '/SegNet/CamVid/train/0001TP_1.png /SegNet/CamVid/trainannot/0001TP_1.png\r\n'
    )
    assert read_names(str(path)) == ['plain', 'city/with_folder', 'with space', '0001TP_1']


@pytest.mark.parametrize('text, message', [('\n \n', 'lists no image'), ('a\nb\na\n', "lists 'a'")])
def test_read_names_refuses(tmp_path, text, message):
    path = tmp_path / 'list.txt'
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_names(str(path))


def test_names_with_blanks_slashes_and_letters_of_all_languages(tmp_path):
    names = ['my photo', 'two words/of a folder', 'first trip/second trip', 'Köln/ß', '東京']
    (tmp_path / 'list.txt').write_text('\n'.join(names), encoding='utf-8')
    assert read_names(str(tmp_path / 'list.txt')) == names
