# Licensed under the Apache License, Version 2.0.
from .camvid import CamVidDataset
from .demo_scenes import DemoSceneDataset
from .labeled_unlabeled import LabeledUnlabeledDataset
from .partial_label_datasets import (
    PartialCamVidDataset,
    PartialCityscapesDataset,
    PartialLabelDataset,
    PartialSUNRGBDDataset,
    PartialVOCDataset,
)
from .partial_labels import sparsify
from .samplers import MultiSourceSampler, SeededBatchSampler
from .sunrgbd import SUNRGBDDataset
from .transforms import (
    HideLabels,
    LoadCheckedAnnotations,
    LoadCheckedImage,
    MultiBranch,
    PackSemiSegInputs,
    RandomColorJitter,
    RandomGaussianBlur,
    RandomRescaleCrop,
    SparsifyLabels,
)

__all__ = [
    'CamVidDataset',
    'DemoSceneDataset',
    'HideLabels',
    'LabeledUnlabeledDataset',
    'LoadCheckedAnnotations',
    'LoadCheckedImage',
    'MultiBranch',
    'MultiSourceSampler',
    'PackSemiSegInputs',
    'PartialCamVidDataset',
    'PartialCityscapesDataset',
    'PartialLabelDataset',
    'PartialSUNRGBDDataset',
    'PartialVOCDataset',
    'RandomColorJitter',
    'RandomGaussianBlur',
    'RandomRescaleCrop',
    'SUNRGBDDataset',
    'SeededBatchSampler',
    'SparsifyLabels',
    'sparsify',
]
