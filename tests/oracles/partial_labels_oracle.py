# Licensed under the Apache License, Version 2.0.
"""Partial labels by the paper's procedure (ReCo, section 4.2), with nothing but dilations."""

import cv2
import numpy as np


def sparsify_by_dilation(
    mask: np.ndarray, share: float, rng: np.random.Generator, ignore_index: int = 255
) -> np.ndarray:
    """Dilate one random pixel of every class until enough of the class is covered.

    Args:
        mask (np.ndarray): Class indices, shape (H, W), dtype uint8.
        share (float): Of the pixels of each class.
        rng (np.random.Generator): Draws one number per class, in ascending order.
        ignore_index (int): Void, before and after.

    Returns:
        np.ndarray: Sparse mask, shape (H, W), dtype uint8.
    """
    sparse = np.full_like(mask, ignore_index)
    kernel = np.ones((5, 5), np.uint8)
    for class_index in np.unique(mask):
        if class_index == ignore_index:
            continue
        inside = (mask == class_index).astype(np.uint8)
        pixels = np.flatnonzero(inside)
        region = np.zeros_like(mask)
        region.flat[pixels[rng.integers(pixels.size)]] = 1
        while (region & inside).sum() < int(share * pixels.size):
            region = cv2.dilate(region, kernel)
        sparse[(region & inside).astype(bool)] = class_index
    return sparse
