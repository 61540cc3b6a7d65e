# Licensed under the Apache License, Version 2.0.
import torch
from mmseg.registry import TASK_UTILS
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .overlap import pairwise_dice


def matching_cost(class_logits: Tensor,
                  masks: Tensor,
                  teacher_masks: Tensor,
                  labels: Tensor,
                  valid: Tensor,
                  weights: tuple[float, float, float] = (1., 20., 1.),
                  gamma: float = 2.,
                  alpha: float = 0.25) -> Tensor:
    """Cost of matching each teacher region with each query, as MaskFormer has it for labels.

    That RC²L matches regions with it is this project's reconstruction.

    Class probability, binary focal loss of the mask, and Dice loss of the mask (MaskFormer,
    arXiv 2107.06278; weights of its ADE20K config in mmseg), over valid pixels only.

    Args:
        class_logits (Tensor): Of the student. Shape (B, N, K + 1).
        masks (Tensor): Of the student, soft, in [0, 1]. Shape (B, N, h, w).
        teacher_masks (Tensor): 0 or 1. Shape (B, T, h, w).
        labels (Tensor): Of the teacher's regions. Shape (B, T), int64.
        valid (Tensor): Shape (B, h, w), bool.
        weights (tuple[float, float, float]): Of class, focal and Dice cost.
        gamma (float): Exponent of the focal loss.
        alpha (float): Weight of the inside in the focal loss, in [0, 1].

    Returns:
        Tensor: Shape (B, T, N), float32.
    """
    with torch.autocast(masks.device.type, enabled=False):
        inside = masks.float().flatten(2)
        pixels = valid.flatten(1)[:, None].float()
        missed = -alpha * (1 - inside)**gamma * (inside + 1e-12).log() * pixels
        overdrawn = -(1 - alpha) * inside**gamma * (1 - inside + 1e-12).log() * pixels
        focal = teacher_masks.float().flatten(2) @ (missed - overdrawn).mT
        focal = (focal + overdrawn.sum(2)[:, None]) / pixels.sum(2, keepdim=True).clamp_min(1)
        dice = 1 - pairwise_dice(masks, teacher_masks, valid)
        probs = class_logits.float().softmax(-1)
        match = labels[..., None].expand(-1, -1, probs.size(1))
        return (weights[1] * focal + weights[2] * dice - weights[0] *
                probs.mT.gather(1, match))


@TASK_UTILS.register_module()
class HungarianMatcher:
    """Matches the teacher's regions with the student's queries, one to one, at least cost.

    That RC²L matches them so is this project's reconstruction.

    SciPy solves it on the host; costs of the whole batch travel there in one copy, the only wait
    for the device in a step of RC²L besides the heads' own matching.

    Args:
        weights (tuple[float, float, float]): Of class, focal and Dice cost.
    """

    def __init__(self, weights: tuple[float, float, float] = (1., 20., 1.)) -> None:
        self.weights = weights

    @torch.no_grad()
    def __call__(self, class_logits: Tensor, masks: Tensor, teacher_masks: Tensor, labels: Tensor,
                 exists: Tensor, valid: Tensor) -> Tensor:
        """Match.

        Args:
            class_logits (Tensor): See :func:`matching_cost`, as the others.
            masks (Tensor): Shape (B, N, h, w).
            teacher_masks (Tensor): Shape (B, T, h, w), T <= N.
            labels (Tensor): Shape (B, T), int64.
            exists (Tensor): False for padding, which is not matched. Shape (B, T), bool.
            valid (Tensor): Shape (B, h, w), bool.

        Returns:
            Tensor: Query of each region; 0 for padding. Shape (B, T), int64.
        """
        cost = matching_cost(class_logits, masks, teacher_masks, labels, valid, self.weights)
        # A diverging student is the loss's to report, not SciPy's.
        cost = cost.nan_to_num(nan=1e6, posinf=1e6, neginf=-1e6)
        table = torch.cat([cost, exists[..., None].to(cost.dtype)], 2).cpu().numpy()
        match = torch.zeros_like(labels, device='cpu')
        for costs, row in zip(table, match.numpy(), strict=True):
            regions = costs[:, -1].nonzero()[0]
            chosen, queries = linear_sum_assignment(costs[regions, :-1])
            row[regions[chosen]] = queries
        return match.to(labels.device, non_blocking=True)
