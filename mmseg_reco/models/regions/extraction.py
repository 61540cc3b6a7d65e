# Licensed under the Apache License, Version 2.0.
"""The teacher's regions, in the geometry of the student's view: RC²L's, as reconstructed here."""
import torch
from torch import Tensor


def look_up(maps: Tensor, origin: Tensor, size: tuple[int, int]) -> Tensor:
    """What maps of the weak views hold for the pixels of the strong views.

    Args:
        maps (Tensor): Of the weak views, at any resolution. Shape (B, C, h', w').
        origin (Tensor): Place of each pixel in the flattened weak views (B, H, W), -1 for none.
            Shape (B, h, w), int64.
        size (tuple[int, int]): (H, W).

    Returns:
        Tensor: Shape (B, C, h, w); 0 where a pixel comes from nowhere.
    """
    height, width = maps.shape[-2:]
    column = origin % size[1] * width // size[1]
    row = origin // size[1] % size[0] * height // size[0]
    cell = (origin // (size[0] * size[1]) * height + row) * width + column
    rows = maps.permute(0, 2, 3, 1).flatten(0, 2)
    found = rows[cell.clamp_min(0).flatten()].view(*origin.shape, -1)
    return (found * (origin >= 0)[..., None]).permute(0, 3, 1, 2)


def semantic_regions(semantic: Tensor, valid: Tensor,
                     num_classes: int) -> tuple[Tensor, Tensor]:
    """One region for each class of the teacher's label map.

    Args:
        semantic (Tensor): Shape (B, h, w), int64.
        valid (Tensor): Shape (B, h, w), bool.
        num_classes (int): K.

    Returns:
        tuple[Tensor, Tensor]: Masks (B, K, h, w), float32; and labels (B, K), int64.
    """
    classes = torch.arange(num_classes, device=semantic.device)
    masks = (semantic[:, None] == classes[:, None, None]) & valid[:, None]
    return masks.float(), classes.expand(len(semantic), -1)


def query_regions(masks: Tensor, class_probs: Tensor,
                  threshold: float) -> tuple[Tensor, Tensor]:
    """One region for each of the teacher's confident queries (reconstruction of RC²L).

    A query counts if its top class is not "no object" and has a probability above the threshold;
    its mask is cut at 0.5.

    Args:
        masks (Tensor): Soft masks in [0, 1]. Shape (B, N, h, w).
        class_probs (Tensor): The last being "no object". Shape (B, N, K + 1).
        threshold (float): In [0, 1].

    Returns:
        tuple[Tensor, Tensor]: Masks (B, N, h, w), 0 or 1 and all 0 for a query that does not
        count, float32; and labels (B, N), int64.
    """
    top, labels = class_probs.max(-1)
    counts = (top > threshold) & (labels < class_probs.size(-1) - 1)
    return ((masks > 0.5) & counts[..., None, None]).float(), labels


def mix_regions(masks: Tensor, labels: Tensor, class_probs: Tensor, origin: Tensor,
                size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Regions of mixed views: what is left of an image's own and of those of the image mixed in.

    Args:
        masks (Tensor): Of the weak views. Shape (B, N, h', w').
        labels (Tensor): Shape (B, N), int64.
        class_probs (Tensor): Shape (B, N, K + 1).
        origin (Tensor): See :func:`look_up`. Shape (B, h, w), int64.
        size (tuple[int, int]): (H, W) of the weak views.

    Returns:
        tuple[Tensor, Tensor, Tensor]: Masks (B, 2N, h, w), labels (B, 2N) and class_probs (B, 2N,
        K + 1).
    """
    images = torch.arange(len(masks), device=masks.device)[:, None, None]
    own = (origin // (size[0] * size[1]) == images)[:, None]
    found = look_up(masks, origin, size)
    # Every mix of this package pairs image i with image i + 1.
    return (torch.cat([found * own, found * ~own], 1),
            torch.cat([labels, labels.roll(-1, 0)], 1),
            torch.cat([class_probs, class_probs.roll(-1, 0)], 1))


def keep_largest(masks: Tensor, labels: Tensor, class_probs: Tensor | None,
                 num: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """The ``num`` regions of largest area of each image, where there are more.

    Args:
        masks (Tensor): Shape (B, T, h, w).
        labels (Tensor): Shape (B, T), int64.
        class_probs (Tensor, optional): Shape (B, T, K + 1).
        num (int): >= 1.

    Returns:
        tuple[Tensor, Tensor, Tensor | None]: The same, of at most ``num`` regions.
    """
    if masks.size(1) <= num:
        return masks, labels, class_probs
    kept = masks.flatten(2).sum(2).topk(num, 1).indices
    masks, labels = masks.take_along_dim(kept[..., None, None], 1), labels.gather(1, kept)
    if class_probs is not None:
        class_probs = class_probs.take_along_dim(kept[..., None], 1)
    return masks, labels, class_probs
