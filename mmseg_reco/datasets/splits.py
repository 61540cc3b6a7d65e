# Licensed under the Apache License, Version 2.0.
"""The labelled split of Case I (ReCo, section 4.1): which few images are labelled.

The selections follow the authors' implementation draw for draw, so that equal lists, masks and
seeds give equal splits.
"""

import random
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import PurePosixPath

from .files import read_text


def read_names(path: str, backend_args: dict | None = None) -> list[str]:
    """Read a list of images.

    Two forms are understood, line by line: a bare name (``2007_000032``, ``aachen/aachen_0``),
    and the pair of paths found in CamVid's and VOC's public lists
    (``/SegNet/CamVid/train/X.png /SegNet/CamVid/trainannot/X.png``), which gives ``X``.

    Args:
        path (str): The text file.
        backend_args (dict, optional): See :func:`~mmseg_reco.datasets.files.read_text`.

    Returns:
        list[str]: The names, in the file's order.

    Raises:
        ValueError: If the list is empty or holds a name twice.
    """
    names = []
    for line in read_text(path, backend_args).splitlines():
        parts = line.split()
        # a name may hold blanks and slashes, but no suffix
        if len(parts) == 2 and all('/' in part and PurePosixPath(part).suffix for part in parts):
            names.append(PurePosixPath(parts[0]).stem)
        elif parts:
            names.append(line.strip())
    if not names:
        raise ValueError(f'{path} lists no image: it must hold one name per line.')
    _refuse_duplicates(names, f'{path} lists')
    return names


def select_labeled(
    names: Sequence[str],
    class_sets: Mapping[str, Set[int]],
    num_labeled: int,
    seed: int,
    min_classes: int = 1,
    class_names: Sequence[str] | None = None,
) -> list[str]:
    """Choose images so that rare classes are not left out (VOC and Cityscapes in the paper).

    The shuffled list is walked from its end. An image is taken if it shows at least
    ``min_classes`` classes, among them one of those shown by the fewest images taken so far.
    Images passed over form the next round's list, walked from its end again.

    Args:
        names (Sequence[str]): All training images, without duplicates. Their order matters.
        class_sets (Mapping[str, Set[int]]): Classes shown by each image, void excluded. Classes
            that no listed image shows play no part.
        num_labeled (int): Number of images to choose, from 1 to ``len(names)``.
        seed (int): Seed of the shuffle.
        min_classes (int): Least number of classes of a labelled image, >= 1. The paper: 3 on VOC,
            12 on Cityscapes.
        class_names (Sequence[str], optional): Names for the error message.

    Returns:
        list[str]: The labelled images, in the order in which they were taken.

    Raises:
        ValueError: If the numbers are out of range, a name is listed twice, or no image that is
            left satisfies the rule. (The authors' code never ends in that case.)
    """
    if min_classes < 1:
        raise ValueError(f'min_classes must be at least 1, not {min_classes}.')
    pool = _shuffled(names, num_labeled, seed)
    counts = dict.fromkeys(sorted(set().union(*(class_sets[name] for name in names))), 0)
    rarest = set(counts)
    labeled: list[str] = []
    passed_over: list[str] = []
    taken_this_round = True
    while len(labeled) < num_labeled:
        if not pool:
            if not (taken_this_round and passed_over):
                raise ValueError(
                    f'Only {len(labeled)} of {num_labeled} labelled images could be chosen '
                    f'(seed {seed}): none of the {len(passed_over)} images left has at least '
                    f'{min_classes} classes, one of them the least labelled: '
                    f'{_describe(rarest, class_names)}. Lower the number of labelled images or '
                    'min_classes, or choose at random.'
                )
            pool, passed_over, taken_this_round = passed_over, [], False
        name = pool.pop()
        present = class_sets[name]
        if len(present) < min_classes or rarest.isdisjoint(present):
            passed_over.append(name)
            continue
        labeled.append(name)
        taken_this_round = True
        for class_index in present:
            counts[class_index] += 1
        least = min(counts.values())
        rarest = {class_index for class_index, count in counts.items() if count == least}
    return labeled


def select_by_class(
    names: Sequence[str], class_sets: Mapping[str, Set[int]], num_labeled: int, seed: int
) -> list[str]:
    """Choose images class by class (SUN RGB-D in the paper).

    The shuffled images are listed under every class that they show. The next image is the last
    one listed under the class shown by the fewest images taken so far (the lowest index among
    equals); a class whose list has run out is left out from then on.

    Args:
        names (Sequence[str]): See :func:`select_labeled`.
        class_sets (Mapping[str, Set[int]]): See :func:`select_labeled`.
        num_labeled (int): Number of images to choose.
        seed (int): Seed of the shuffle.

    Returns:
        list[str]: The labelled images, in the order in which they were taken.

    Raises:
        ValueError: If ``num_labeled`` is out of range, a name is listed twice, or too few images
            show a class.
    """
    images_of: dict[int, list[str]] = {}
    for name in _shuffled(names, num_labeled, seed):
        for class_index in class_sets[name]:
            images_of.setdefault(class_index, []).append(name)
    counts = dict.fromkeys(sorted(images_of), 0)
    labeled: dict[str, None] = {}  # a set that remembers its order
    while len(labeled) < num_labeled:
        if not images_of:
            raise ValueError(
                f'Only {len(labeled)} of the {len(names)} listed images show any class, '
                f'but {num_labeled} are to be labelled.'
            )
        rarest = min(sorted(images_of), key=counts.__getitem__)
        if not images_of[rarest]:
            del images_of[rarest]
            continue
        name = images_of[rarest].pop()
        if name not in labeled:
            labeled[name] = None
            for class_index in class_sets[name]:
                counts[class_index] += 1
    return list(labeled)


def select_random(names: Sequence[str], num_labeled: int, seed: int) -> list[str]:
    """Choose images at random; with one seed, a shorter selection starts a longer one.

    Args:
        names (Sequence[str]): All training images, without duplicates. Their order matters.
        num_labeled (int): Number of images to choose, from 1 to ``len(names)``.
        seed (int): Seed of the shuffle.

    Returns:
        list[str]: The labelled images.

    Raises:
        ValueError: If ``num_labeled`` is out of range or a name is listed twice.
    """
    return _shuffled(names, num_labeled, seed)[:num_labeled]


def _shuffled(names: Sequence[str], num_labeled: int, seed: int) -> list[str]:
    _refuse_duplicates(names, 'The list of images holds')
    if not 1 <= num_labeled <= len(names):
        raise ValueError(
            f'The number of labelled images must lie between 1 and {len(names)}, the length of '
            f'the list, but is {num_labeled}.'
        )
    shuffled = list(names)
    random.Random(seed).shuffle(shuffled)
    return shuffled


def _refuse_duplicates(names: Sequence[str], subject: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{subject} '{name}' more than once.")
        seen.add(name)


def _describe(classes: Iterable[int], class_names: Sequence[str] | None) -> str:
    return ', '.join(
        f'class {index}' + (f' ({class_names[index]})' if class_names else '')
        for index in sorted(classes)
    )
