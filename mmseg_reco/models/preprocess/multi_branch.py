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
        self.data_preprocessor._non_blocking = True  # which mmseg's takes no argument for
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

        Raises:
            ValueError: The batch has no branches, or the stock preprocessor cannot join the images
                of one.
        """
        if not training:
            return self.data_preprocessor(data, training)
        if not isinstance(data['inputs'], dict):
            raise ValueError("The batch has no branches 'sup' and 'unsup': wrap the dataset of "
                             'train_dataloader in LabeledUnlabeledDataset.')
        branches = {}
        for name in data['inputs']:
            batch = {key: [entry for entry in value[name] if entry is not None]
                     for key, value in data.items()}
            if batch['inputs']:
                branches[name] = self._join(name, batch)
        return {key: {name: batch[key] for name, batch in branches.items()} for key in data}

    def _join(self, branch: str, batch: dict[str, list]) -> dict:
        shapes = sorted({tuple(image.shape) for image in batch['inputs']})
        try:
            return self.data_preprocessor(batch, True)
        except torch.cuda.OutOfMemoryError:
            raise
        except (AssertionError, RuntimeError) as error:
            raise ValueError(
                f"The images of the branch '{branch}', of shapes {shapes}, do not become a batch "
                f'({error}): data_preprocessor.size is the crop size, all images are cropped to it '
                '(RandomCrop), and mean and std have a number for each channel.') from error

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
