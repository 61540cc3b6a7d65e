# Licensed under the Apache License, Version 2.0.
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS


def _palette(num_colours: int) -> list[list[int]]:
    """PASCAL VOC's rule for colours: the bits of the index, spread over the channels from the
    highest bit down; index 0, black, is left for pixels without a class."""
    return [[sum((index >> 3 * place + channel & 1) << 7 - place for place in range(8))
             for channel in range(3)] for index in range(1, num_colours + 1)]


@DATASETS.register_module()
class SUNRGBDDataset(BaseSegDataset):
    """SUN RGB-D with the 37 classes of its segmentation benchmark.

    Masks hold 0 for unlabelled pixels and 1-37 for the classes, so ``reduce_zero_label`` is on.
    Images and masks share their names (``img-000001.jpg``, ``img-000001.png``).

    Args:
        img_suffix (str): Suffix of the images.
        seg_map_suffix (str): Suffix of the masks.
        reduce_zero_label (bool): Whether 0 means unlabelled and the classes start at 1.
        **kwargs: Of ``BaseSegDataset``.
    """

    METAINFO = dict(
        classes=('wall', 'floor', 'cabinet', 'bed', 'chair', 'sofa', 'table', 'door', 'window',
                 'bookshelf', 'picture', 'counter', 'blinds', 'desk', 'shelves', 'curtain',
                 'dresser', 'pillow', 'mirror', 'floor mat', 'clothes', 'ceiling', 'books',
                 'fridge', 'tv', 'paper', 'towel', 'shower curtain', 'box', 'whiteboard', 'person',
                 'night stand', 'toilet', 'sink', 'lamp', 'bathtub', 'bag'),
        palette=_palette(37))

    def __init__(self,
                 img_suffix: str = '.jpg',
                 seg_map_suffix: str = '.png',
                 reduce_zero_label: bool = True,
                 **kwargs) -> None:
        super().__init__(
            img_suffix=img_suffix,
            seg_map_suffix=seg_map_suffix,
            reduce_zero_label=reduce_zero_label,
            **kwargs)
