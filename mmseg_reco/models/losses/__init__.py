# Licensed under the Apache License, Version 2.0.
from .pseudo_label_loss import PseudoLabelLoss
from .reco_loss import ReCoLoss

__all__ = ['PseudoLabelLoss', 'ReCoLoss']
