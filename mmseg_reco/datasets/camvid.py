# Licensed under the Apache License, Version 2.0.
import os.path as osp
from collections.abc import Sequence

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from .files import list_files
from .splits import read_names


@DATASETS.register_module()
class CamVidDataset(BaseSegDataset):
    """CamVid with 11 classes, in the layout of the SegNet tutorial's copy.

    Its masks mark void with 11, which mmseg's own ``label_map`` turns into the ignored label as
    ``LoadAnnotations`` loads them; so everything after that (metrics, pictures, losses) sees
    classes 0-10 and 255 only.

    ``ann_file`` may hold bare names, or the copy's pairs of paths ``/SegNet/CamVid/train/X.png
    /SegNet/CamVid/trainannot/X.png``, of which only the name ``X`` counts.

    Args:
        img_suffix (str, optional): Suffix of the images. None: the one that the image folder
            holds, ``.png`` (the public copy), ``.jpg`` or ``.jpeg``.
        seg_map_suffix (str): Suffix of the masks.
        **kwargs: Of ``BaseSegDataset``.

    Raises:
        ValueError: If ``img_suffix`` is None and the image folder holds images of no or more than
            one suffix, or if the list is empty or holds a name twice.
    """

    METAINFO = dict(
        classes=('sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign symbol', 'fence',
                 'car', 'pedestrian', 'bicyclist'),
        palette=[[128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [60, 40, 222],
                 [128, 128, 0], [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0],
                 [0, 128, 192]])
    VOID = 11

    def __init__(self,
                 img_suffix: str | None = None,
                 seg_map_suffix: str = '.png',
                 **kwargs) -> None:
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)

    @classmethod
    def get_label_map(cls, new_classes: Sequence[str] | None = None) -> dict[int, int]:
        """mmseg's map from labels of the masks to labels of training, with void."""
        return {**(super().get_label_map(new_classes) or {}), cls.VOID: 255}

    def load_data_list(self) -> list[dict]:
        """Locate images and masks, as mmseg does, for either form of ``ann_file``."""
        img_dir = self.data_prefix['img_path']
        if self.img_suffix is None:
            self.img_suffix = self._find_suffix(img_dir)
        if not self.ann_file:
            return super().load_data_list()
        data_list = []
        for name in read_names(self.ann_file, self.backend_args):
            info = dict(
                img_path=osp.join(img_dir, name + self.img_suffix),
                label_map=self.label_map,
                reduce_zero_label=self.reduce_zero_label,
                seg_fields=[])
            if 'seg_map_path' in self.data_prefix:
                info['seg_map_path'] = osp.join(
                    self.data_prefix['seg_map_path'], name + self.seg_map_suffix)
            data_list.append(info)
        return data_list

    def _find_suffix(self, img_dir: str) -> str:
        known = '.png', '.jpg', '.jpeg'
        files = list_files(img_dir, known, backend_args=self.backend_args)
        found = sorted({osp.splitext(file)[1] for file in files})
        if len(found) != 1:
            raise ValueError(
                f"CamVid's image folder '{img_dir}' holds {' and '.join(found) or 'no'} images of "
                f'the suffixes {known}: check data_root and data_prefix, or give img_suffix.')
        return found[0]
