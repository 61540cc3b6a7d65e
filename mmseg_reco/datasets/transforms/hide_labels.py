# Licensed under the Apache License, Version 2.0.
"""Unlabelled images whose masks happen to exist: kept for diagnostics, out of training's reach."""

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from ..files import backend_of


@TRANSFORMS.register_module()
class HideLabels(BaseTransform):
    """Take an image's annotation away from training.

    ``gt_seg_map`` moves to ``hidden_seg_map`` and becomes ``ignore_index`` everywhere. The hidden
    map takes part in the geometric transforms that follow, and is meant for measuring
    pseudo-labels, never for training. Images without a mask (no ``seg_map_path``, or no such
    file) get a ``gt_seg_map`` that is ignored everywhere and no hidden map.

    Required keys: ``img``, ``seg_fields``; ``seg_map_path`` where there is a mask to load.

    Modified keys: ``gt_seg_map``, ``seg_fields``.

    Added keys: ``hidden_seg_map``, where a mask is known.

    Args:
        loader (dict, optional): Config of the annotation loader, run here because it would
            refuse an image without a mask. None: the mask, if any, was loaded before.
        ignore_index (int): Label of pixels without a class.
    """

    def __init__(self, loader: dict | None = None, ignore_index: int = 255) -> None:
        self.loader = None if loader is None else TRANSFORMS.build(loader)
        self.ignore_index = ignore_index

    def transform(self, results: dict) -> dict:
        """Hide the annotation of one image."""
        if self.loader is not None:
            results = self._load(results)
        if 'gt_seg_map' in results:
            # partial labels have hidden the complete annotation already
            if 'hidden_seg_map' not in results:
                results['hidden_seg_map'] = results['gt_seg_map']
                results['seg_fields'].append('hidden_seg_map')
        else:
            results['seg_fields'].append('gt_seg_map')
        results['gt_seg_map'] = np.full(results['img'].shape[:2], self.ignore_index, np.uint8)
        return results

    def _load(self, results: dict) -> dict:
        """The results with their mask, where there is one."""
        path = results.get('seg_map_path')
        if path is None:
            return results
        backend = backend_of(path, getattr(self.loader, 'backend_args', None))
        if hasattr(backend, 'exists') and not backend.exists(path):
            return results
        try:
            return self.loader(results)
        except FileNotFoundError:  # only a backend that could not tell gets here
            return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(loader={self.loader}, ignore_index={self.ignore_index})'
