# Licensed under the Apache License, Version 2.0.
from .cells import Dots, PseudoLabels, color_labels
from .class_relations import draw_class_relations, draw_relation_history
from .curves import draw_pseudo_label_quality
from .embeddings import draw_class_embeddings
from .images import batch_to_rgb, bgr_to_rgb, figure_to_rgb
from .panels import PANEL_WIDTH, draw_panel, save_picture
from .regions import draw_matched_regions

__all__ = [
    'Dots',
    'PANEL_WIDTH',
    'PseudoLabels',
    'batch_to_rgb',
    'bgr_to_rgb',
    'color_labels',
    'draw_class_embeddings',
    'draw_class_relations',
    'draw_matched_regions',
    'draw_panel',
    'draw_pseudo_label_quality',
    'draw_relation_history',
    'figure_to_rgb',
    'save_picture',
]
