# Licensed under the Apache License, Version 2.0.
"""From one image's results to what the semi-supervised segmentor receives."""

from copy import deepcopy

import numpy as np
import torch
from mmcv.transforms import BaseTransform, Compose
from mmengine.structures import PixelData
from mmseg.datasets.transforms import PackSegInputs
from mmseg.registry import TRANSFORMS


@TRANSFORMS.register_module()
class PackSemiSegInputs(PackSegInputs):
    """mmseg's ``PackSegInputs``, which also packs the hidden annotation.

    ``hidden_seg_map`` becomes ``data_samples.hidden_sem_seg``: PixelData, int64, (1, H, W).
    Absent where the image has no mask, and where a transform that knows ``gt_seg_map`` only, such
    as mmcv's ``CenterCrop``, made the image smaller than the hidden map.

    Args:
        ignore_index (int): Fills the hidden map where mmcv's ``Pad``, which knows ``gt_seg_map``
            only, enlarged the image at its right and bottom.
        **kwargs: Of ``PackSegInputs``.
    """

    def __init__(self, ignore_index: int = 255, **kwargs) -> None:
        super().__init__(**kwargs)
        self.ignore_index = ignore_index

    def transform(self, results: dict) -> dict:
        """Pack one image.

        Returns:
            dict: ``inputs``, the image as a tensor (C, H, W), and ``data_samples``, a
            SegDataSample.
        """
        packed = super().transform(results)
        if 'hidden_seg_map' in results:
            hidden = results['hidden_seg_map'].astype(np.int64)
            missing = np.subtract(results['img'].shape[:2], hidden.shape)
            if (missing >= 0).all():
                hidden = np.pad(hidden, [(0, missing[0]), (0, missing[1])],
                                constant_values=self.ignore_index)
                packed['data_samples'].hidden_sem_seg = PixelData(
                    data=torch.from_numpy(hidden[None]))
        return packed


@TRANSFORMS.register_module()
class MultiBranch(BaseTransform):
    """Send an image through the pipelines of some branches, under mmdet's name and shape.

    Every result of a pipeline becomes a dict with an entry per branch, None for the branches this
    image has no pipeline for. Images of different branches therefore collate: ``inputs`` of a
    labelled and an unlabelled image become ``{'sup': [image, None], 'unsup': [None, image]}``.

    Args:
        branch_field (list[str]): Names of all branches of the dataset.
        **branch_pipelines (dict | list[dict]): The pipelines of some of them, by branch name; the
            last transform of each packs ``inputs`` and ``data_samples``.

    Raises:
        ValueError: If a pipeline is given for a branch that ``branch_field`` does not name.

    Examples:
        >>> dict(type='MultiBranch', branch_field=['sup', 'unsup'],
        >>>      sup=[dict(type='PackSemiSegInputs')])
    """

    def __init__(self, branch_field: list[str], **branch_pipelines) -> None:
        unknown = sorted(set(branch_pipelines) - set(branch_field))
        if unknown:
            raise ValueError(f'MultiBranch has pipelines for {unknown}, but its branch_field is '
                             f'{list(branch_field)}: name every branch there.')
        self.branch_field = branch_field
        self.branch_pipelines = {
            branch: Compose(pipeline) for branch, pipeline in branch_pipelines.items()
        }

    def transform(self, results: dict) -> dict | None:
        """Run the pipelines.

        Returns:
            dict | None: ``{key: {branch: value or None}}``; None, which makes the dataset draw
            another image, if one of the pipelines gives None.
        """
        outputs = {}
        last = next(reversed(self.branch_pipelines), None)
        for branch, pipeline in self.branch_pipelines.items():
            # a pipeline may work in place, and the next one starts from the same results
            outputs[branch] = pipeline(results if branch == last else deepcopy(results))
            if outputs[branch] is None:
                return None
        keys = dict.fromkeys(key for output in outputs.values() for key in output)
        return {
            key: {branch: outputs.get(branch, {}).get(key) for branch in self.branch_field}
            for key in keys
        }

    def __repr__(self) -> str:
        return (f'{type(self).__name__}(branch_field={self.branch_field}, '
                f'branch_pipelines={self.branch_pipelines})')
