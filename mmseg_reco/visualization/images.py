# Licensed under the Apache License, Version 2.0.
"""RGB pictures (H, W, 3), uint8, from figures and tensors."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor


def figure_to_rgb(figure: Figure) -> np.ndarray:
    """Render a figure at its own dots per inch."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def batch_to_rgb(images: Tensor) -> list[np.ndarray]:
    """The pictures of a batch, RGB in [0, 1] (B, 3, H, W), on any device."""
    return list((images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy())


def bgr_to_rgb(image: Tensor) -> np.ndarray:
    """The picture of an image as pipelines pack it, BGR (3, H, W), uint8, on the CPU."""
    return image.flip(0).permute(1, 2, 0).numpy()
