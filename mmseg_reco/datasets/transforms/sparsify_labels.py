# Licensed under the Apache License, Version 2.0.
"""Partial labels on the fly."""

from pathlib import Path

from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from ..partial_labels import image_rng, parse_level, sparsify


@TRANSFORMS.register_module()
class SparsifyLabels(BaseTransform):
    """Turn complete annotations into partial labels on the fly.

    Place it right after ``LoadAnnotations``, before anything that moves pixels at random. The
    result depends on the mask and (level, seed, stem of its file) only. It works on training
    labels, after ``reduce_zero_label`` and ``label_map``, and equals what
    ``tools/dataset_converters/partial_labels.py`` writes, if these leave the classes of the mask
    in their order and no ``Resize`` comes before it.

    Required keys: ``gt_seg_map``, ``seg_map_path``, ``seg_fields``.

    Modified keys: ``gt_seg_map`` (sparse), ``seg_fields``.

    Added keys: ``hidden_seg_map``, the complete annotation. It takes part in the geometric
    transforms that follow, and is meant for measuring pseudo-labels, never for training.

    Args:
        level (str): See :func:`parse_level`.
        seed (int): Seed of the partial labels.
        ignore_index (int): Label of pixels without a class.
    """

    def __init__(self, level: str, seed: int = 0, ignore_index: int = 255) -> None:
        parse_level(level)
        self.level = level
        self.seed = seed
        self.ignore_index = ignore_index

    def transform(self, results: dict) -> dict:
        """Replace ``gt_seg_map`` by its sparse version."""
        complete = results['gt_seg_map']
        rng = image_rng(self.seed, Path(results['seg_map_path']).stem)
        results['hidden_seg_map'] = complete
        results['seg_fields'].append('hidden_seg_map')
        results['gt_seg_map'] = sparsify(complete, self.level, rng, self.ignore_index)
        return results

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(level='{self.level}', seed={self.seed}, "
            f'ignore_index={self.ignore_index})'
        )
