# Licensed under the Apache License, Version 2.0.
from .deeplabv2_head import DeepLabV2Head
from .feature_tap import FeatureTap
from .projector import Projector

__all__ = ['DeepLabV2Head', 'FeatureTap', 'Projector']
