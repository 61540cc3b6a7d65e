# Licensed under the Apache License, Version 2.0.
"""Loaders that refuse bad files by name, where the stock ones train on what is left of them.

OpenCV 4 paints the missing part of a truncated JPEG black without an error (OpenCV 5 refuses it),
and mmseg's loader takes colour images and masks of any size and label for annotations.
"""

import logging
from io import BytesIO

import cv2
import mmcv
import numpy as np
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.logging import print_log
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS
from PIL import Image

from ..files import address, read


def is_cut_short(data: bytes) -> bool:
    """Whether a JPEG or PNG file ends too early; other formats are left to their decoders.

    A whole file ends in a marker that image data cannot contain: found in microseconds. A file
    where it is not the last one is put to Pillow, a stricter decoder than OpenCV.

    Args:
        data (bytes): The file.
    """
    if data.startswith(b'\xff\xd8'):
        end = data.rfind(b'\xff\xd9')
        # an embedded preview has an end as well, before the image's own start of scan
        whole = end >= 0 and data.find(b'\xff\xda', end) < 0
    elif data.startswith(b'\x89PNG'):
        whole = data.rfind(b'IEND') >= 0
    else:
        return False
    if whole:
        return False
    try:
        with Image.open(BytesIO(data)) as image:
            image.load()
    except (OSError, SyntaxError):
        return True
    return False


@TRANSFORMS.register_module()
class LoadCheckedImage(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile``, which refuses damaged images.

    Damaged are files that are empty, cut short or of no format known to the decoder, and images of
    floats with NaN or infinite values. ``LabeledUnlabeledDataset`` and the partial-label datasets
    put it in the place of the stock loader; in any other config take it by name.

    Args:
        damaged (str): 'error' (default) to stop with the file's name; 'skip' to let the dataset
            draw another image, name the file once in every worker's log, and count. ``skipped``
            is the count, over all workers.
        **kwargs: Of ``LoadImageFromFile``; with its ``ignore_empty=True`` damaged images are
            skipped without a word.

    Raises:
        ValueError: If ``damaged`` is neither, or, on loading, if the image is damaged.
    """

    def __init__(self, damaged: str = 'error', **kwargs) -> None:
        super().__init__(**kwargs)
        if damaged not in ('error', 'skip'):
            raise ValueError(f"LoadCheckedImage: damaged is 'error' or 'skip', got {damaged!r}")
        self.damaged = damaged
        self.skipped = torch.zeros((), dtype=torch.int64).share_memory_()
        self._named: set[str] = set()

    def transform(self, results: dict) -> dict | None:
        """Load one image.

        Returns:
            dict | None: The results with ``img``, ``img_shape`` and ``ori_shape``; None for an
            image that is skipped.
        """
        path = results['img_path']
        img, fault = self._decode(read(path, self.backend_args))
        if fault and self.ignore_empty:
            return None
        if fault and self.damaged == 'skip':
            self.skipped += 1
            if path not in self._named:
                self._named.add(path)
                print_log(f"The image '{path}' is skipped: {fault} ({int(self.skipped)} images "
                          'skipped so far).', 'current', logging.WARNING)
            return None
        if fault:
            raise ValueError(
                f"The image '{path}' is damaged: {fault}. Replace it, take it off the list, or "
                "pass over such images with dict(type='LoadCheckedImage', damaged='skip').")
        results['img'] = img.astype(np.float32) if self.to_float32 else img
        results['img_shape'] = results['ori_shape'] = img.shape[:2]
        return results

    def _decode(self, data: bytes) -> tuple[np.ndarray | None, str]:
        """The image, and what is wrong with it."""
        if len(data) == 0:
            return None, 'the file is empty'
        if is_cut_short(data):
            return None, 'the file is cut short'
        try:
            img = mmcv.imfrombytes(data, flag=self.color_type, backend=self.imdecode_backend)
        except (cv2.error, OSError, SyntaxError) as error:
            return None, f'it cannot be decoded ({error})'
        if img is None:
            return None, 'it is of no image format that can be decoded'
        if np.issubdtype(img.dtype, np.floating) and not np.isfinite(img).all():
            return None, 'it holds NaN or infinite values'
        return img, ''


@TRANSFORMS.register_module()
class LoadCheckedAnnotations(LoadAnnotations):
    """mmseg's ``LoadAnnotations``, which refuses masks that do not fit their image or classes.

    Args:
        num_classes (int, optional): Number of classes after ``reduce_zero_label`` and
            ``label_map``; None for any.
        ignore_index (int): Label of pixels without a class.
        **kwargs: Of ``LoadAnnotations``.

    Raises:
        FileNotFoundError: On loading, if there is no mask.
        ValueError: On loading, if the mask cannot be read, is in colour, has another size than its
            image, or holds a label that is no class.
    """

    def __init__(self, num_classes: int | None = None, ignore_index: int = 255, **kwargs) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def _load_seg_map(self, results: dict) -> None:
        path = results['seg_map_path']
        results['seg_map_path'] = address(path)
        try:
            super()._load_seg_map(results)
        except (KeyError, OSError, SyntaxError, TypeError) as error:
            read(path, self.backend_args)  # says so by name, if it is not there
            raise ValueError(f"The mask '{path}' cannot be read: {error}") from error
        finally:
            results['seg_map_path'] = path
        labels = results['gt_seg_map']
        if labels.ndim != 2:
            raise ValueError(f"The mask '{path}' has {labels.shape[-1]} channels: masks hold one "
                             'class index for each pixel. Convert colours to indices first.')
        size = results['img'].shape[:2] if 'img' in results else labels.shape
        if labels.shape != size:
            raise ValueError(f"The mask '{path}' is {labels.shape[1]}x{labels.shape[0]}, but its "
                             f'image {size[1]}x{size[0]}: they do not belong together.')
        if self.num_classes is not None:
            wrong = (labels >= self.num_classes) & (labels != self.ignore_index)
            if wrong.any():
                raise ValueError(
                    f"The mask '{path}' holds label {labels[wrong].max()}, but there are "
                    f'{self.num_classes} classes and {self.ignore_index} for void: check the '
                    "dataset's classes and reduce_zero_label.")
