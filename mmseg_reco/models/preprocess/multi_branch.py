# Licensed under the Apache License, Version 2.0.
import torch
from mmengine.model import BaseDataPreprocessor
from mmseg.registry import MODELS
from mmseg.utils import ConfigType
from torch import Tensor


@MODELS.register_module()
class MultiBranchDataPreprocessor(BaseDataPreprocessor):
    """Runs a stock preprocessor on each branch of a multi-branch batch.

    A batch of :class:`MultiBranch` samples holds, for each branch, one entry a sample, None where
    the sample is not of that branch. They are filtered here, and each branch of which there are
    samples becomes an ordinary batch. Batches without branches (validation) pass straight to the
    stock preprocessor.

    Args:
        data_preprocessor (dict): Config of the stock preprocessor, ``SegDataPreProcessor``.
    """

    def __init__(self, data_preprocessor: ConfigType) -> None:
        super().__init__()
        self.data_preprocessor = MODELS.build(data_preprocessor)
        # of its config: mmseg and its fork keep this under different names
        self._is_rgb = any(data_preprocessor.get(key) for key in ('bgr_to_rgb', 'rgb_to_bgr'))

    def forward(self, data: dict, training: bool = False) -> dict:
        """Preprocess a batch.

        Args:
            data (dict): ``inputs`` and ``data_samples``, each a dict of branches in training.
            training (bool): Whether it is a training batch.

        Returns:
            dict: ``inputs`` (branch to Tensor (B, 3, H, W)) and ``data_samples`` (branch to list
            of samples); without branches, what the stock preprocessor returns.
        """
        if not training:
            return self.data_preprocessor(data, training)
        branches = {
            name: self.data_preprocessor({
                key: [entry for entry in value[name] if entry is not None]
                for key, value in data.items()
            }, training)
            for name, images in data['inputs'].items() if any(image is not None for image in images)
        }
        return {key: {name: batch[key] for name, batch in branches.items()} for key in data}

    def to_rgb(self, images: Tensor) -> Tensor:
        """Undo the normalisation: images (B, 3, H, W) to RGB in [0, 1]."""
        stock = self.data_preprocessor
        if stock._enable_normalize:
            images = torch.addcmul(stock.mean / 255, images, stock.std / 255)
        else:
            images = images / 255
        images.clamp_(0, 1)
        return images if self._is_rgb else images.flip(1)

    def from_rgb(self, images: Tensor) -> Tensor:
        """The inverse of :meth:`to_rgb`."""
        stock = self.data_preprocessor
        images = images if self._is_rgb else images.flip(1)
        if stock._enable_normalize:
            return torch.addcmul(-stock.mean / stock.std, images, 255 / stock.std)
        return images * 255
