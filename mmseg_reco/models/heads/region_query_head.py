# Licensed under the Apache License, Version 2.0.
"""What MaskFormer's and Mask2Former's heads share: regions handed out, ignored pixels left out."""
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.structures import InstanceData
from mmseg.structures import SegDataSample
from mmseg.utils import SampleList
from packaging.specifiers import SpecifierSet
from torch import Tensor

from ..utils import global_avg_factor
from .feature_tap import FeatureTap

_MMDET = '>=3.1,<4'
# A logit whose sigmoid is exactly 0, in half precision too.
_OUTSIDE = -1e4


class QueryOutput(NamedTuple):
    """What one forward pass of a query head gives; the batch is dimension 0 of every tensor.

    Attributes:
        class_logits (list[Tensor]): One for each decoder layer, the last class being "no object".
            Each (B, N, K + 1).
        mask_logits (list[Tensor]): One for each decoder layer. Each (B, N, h, w).
        query_embeddings (Tensor): The last layer's queries, which ``cls_embed`` and ``mask_embed``
            read. Shape (B, N, C).
        pixel_features (Tensor): The pixel decoder's map, which mask embeddings are multiplied
            with. Shape (B, C, h, w).
    """

    class_logits: list[Tensor]
    mask_logits: list[Tensor]
    query_embeddings: Tensor
    pixel_features: Tensor


def semantic_scores(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    r"""Score of each class at each pixel: the sum over queries of class probability times mask.

    :math:`S_k(x) = \sum_q \mathrm{softmax}(c_q)_k \, \sigma(M_q(x))` (MaskFormer's semantic
    inference).

    Args:
        class_logits (Tensor): The last class is "no object". Shape (B, N, K + 1).
        mask_logits (Tensor): Shape (B, N, h, w).

    Returns:
        Tensor: In [0, N], float32; above 1 only where queries overlap. Shape (B, K, h, w).
    """
    with torch.autocast(class_logits.device.type, enabled=False):
        probs = class_logits.float().softmax(2)[..., :-1]
        return torch.einsum('bnk,bnhw->bkhw', probs, mask_logits.float().sigmoid())


def check_mmdet(name: str) -> None:
    """Refuse to build a query head without a working mmdet.

    Without mmdet, or with one that cannot be imported whole, mmseg puts an empty module in the
    place of mmdet's heads and says nothing.

    Args:
        name (str): The class that needs mmdet.

    Raises:
        ImportError: With what to install.
    """
    remedy = (f"Install it with: pip install 'mmdet{_MMDET}', or pip install 'mmseg_reco[rc2l]'; "
              'beside the onedl forks: pip install onedl-mmdetection')
    try:
        version = import_module('mmdet').__version__
        if not SpecifierSet(_MMDET).contains(version, prereleases=True):
            raise ImportError(
                f'mmdet {version} is installed, but {name} needs mmdet{_MMDET}. {remedy}')
        import_module('mmdet.models.dense_heads')
    except ModuleNotFoundError as error:
        raise ImportError(f'{name} needs mmdet{_MMDET}, but there is no module "{error.name}". '
                          f'{remedy}') from error


class LabeledPixelAssigner:
    """Matches queries to masks on labelled pixels only.

    Expects the ignored pixels as the last ground-truth mask. Matching happens on the host; dropping
    pixels waits for the device once more.

    Args:
        assigner: An assigner of mmdet, which is shown labelled pixels or points only.
    """

    def __init__(self, assigner: Any) -> None:
        self.assigner = assigner

    def assign(self,
               pred_instances: InstanceData,
               gt_instances: InstanceData,
               img_meta: dict | None = None) -> Any:
        """Match the queries of one image.

        Args:
            pred_instances (InstanceData): ``scores`` (N, K + 1) and ``masks``, logits (N, \\*).
            gt_instances (InstanceData): ``labels`` (G + 1, ) and ``masks`` (G + 1, \\*). The last
                mask is above 0 wherever an ignored pixel takes part.
            img_meta (dict, optional): Handed on.

        Returns:
            AssignResult: Of the N queries and the first G masks.
        """
        labeled = (gt_instances.masks[-1] == 0).flatten().nonzero()[:, 0]  # waits, once
        logits = pred_instances.masks.flatten(1)[:, labeled]
        masks = gt_instances.masks[:-1].flatten(1)[:, labeled]
        if len(labeled) == 0:
            # Nothing to compare at this resolution: one neutral pixel leaves it to the classes.
            logits, masks = logits.new_zeros(len(logits), 1), masks.new_zeros(len(masks), 1)
        return self.assigner.assign(
            InstanceData(scores=pred_instances.scores, masks=logits),
            InstanceData(labels=gt_instances.labels[:-1], masks=masks), img_meta)


class RegionQueryHead:
    """Mixin for mmseg's query heads: hands out regions, and leaves ignored pixels out of the loss.

    Weights, names, signatures and predictions are the stock head's. So is the set loss, except
    that an ignored pixel takes no part in the matching cost, in the mask loss or in the Dice loss
    (the stock heads count it as outside of every mask):

    - Matching sees labelled pixels only. Where the masks' resolution has none of an image's, only
      classes decide.
    - The mask loss averages over the labelled pixels of each mask, then over masks.
    - An image without any labelled pixel takes no part at all: its queries are not taught
      "no object", since nothing is known.

    RC²L (IJCAI 2022) leaves its supervised loss to MaskFormer; leaving ignored pixels out is
    defined here.

    Raises:
        ImportError: If mmdet is missing or of an unsupported version.
    """

    def __init__(self, *args, **kwargs) -> None:
        check_mmdet(type(self).__name__)
        super().__init__(*args, **kwargs)
        if self.train_cfg:
            self.assigner = LabeledPixelAssigner(self.assigner)

    def forward_regions(self, features: Sequence[Tensor], size: tuple[int, int]) -> QueryOutput:
        """One forward pass with everything that regions are made of.

        Args:
            features (Sequence[Tensor]): Maps of the backbone (or neck), each (B, C_i, h_i, w_i).
            size (tuple[int, int]): Height and width of the images, without padding.

        Returns:
            QueryOutput: Of all images.
        """
        size = tuple(size)
        metainfo = dict(img_shape=size, pad_shape=size, batch_input_shape=size)
        samples = [SegDataSample(metainfo=metainfo) for _ in features[0]]
        with FeatureTap(self, 'mask_embed') as queries, \
                FeatureTap(self, 'pixel_decoder', output=True) as pixels:
            class_logits, mask_logits = self(features, samples)
        embeddings = queries.features
        if embeddings.dim() == 4:  # MaskFormer embeds the queries of all layers at once.
            embeddings = embeddings[-1]
        return QueryOutput(list(class_logits), list(mask_logits), embeddings, pixels.features[0])

    def loss_by_regions(self, output: QueryOutput, data_samples: SampleList) -> dict[str, Tensor]:
        """The set loss of a forward pass.

        Args:
            output (QueryOutput): Of :meth:`forward_regions`.
            data_samples (list[SegDataSample]): Labels ``gt_sem_seg`` of the same images.

        Returns:
            dict[str, Tensor]: Scalars, named as in the stock head.
        """
        return self.loss_by_feat(output.class_logits, output.mask_logits,
                                 *self._seg_data_to_instance_data(data_samples))

    def _seg_data_to_instance_data(
            self, batch_data_samples: SampleList) -> tuple[list[InstanceData], list[dict]]:
        """One mask for each class, as in the stock head, and one more: the ignored pixels."""
        instances, metas = super()._seg_data_to_instance_data(batch_data_samples)
        ignored = [sample.gt_sem_seg.data == self.ignore_index for sample in batch_data_samples]
        return [
            InstanceData(
                labels=F.pad(instance.labels, (0, 1), value=self.ignore_index),
                masks=torch.cat([instance.masks, mask.to(instance.masks)]))
            for instance, mask in zip(instances, ignored, strict=True)
        ], metas

    def _loss_by_feat_single(self, cls_scores: Tensor, mask_preds: Tensor,
                             batch_gt_instances: list[InstanceData],
                             batch_img_metas: list[dict]) -> tuple[Tensor, Tensor, Tensor]:
        """Set loss of one decoder layer, in float32.

        Args:
            cls_scores (Tensor): Shape (B, N, K + 1).
            mask_preds (Tensor): Logits. Shape (B, N, h, w).
            batch_gt_instances (list[InstanceData]): ``labels`` (G_i + 1, ) and ``masks``
                (G_i + 1, H, W) of each image, the last mask being the ignored pixels.
            batch_img_metas (list[dict]): Handed on to the assigner.

        Returns:
            tuple[Tensor, Tensor, Tensor]: Class, mask and Dice loss, float32 scalars.
        """
        with torch.autocast(cls_scores.device.type, enabled=False):
            cls_scores, mask_preds = cls_scores.float(), mask_preds.float()
            labels, _, targets, matched, _ = self.get_targets(
                list(cls_scores), list(mask_preds), batch_gt_instances, batch_img_metas)
            labels, matched = torch.stack(labels), torch.stack(matched) > 0

            known = cls_scores.new_tensor([len(gt) > 1 for gt in batch_gt_instances])
            known = known[:, None].expand_as(labels)
            class_weight = cls_scores.new_tensor(self.class_weight)
            loss_cls = self.loss_cls(
                cls_scores.flatten(0, 1), labels.flatten(), known.flatten(),
                avg_factor=global_avg_factor((class_weight[labels] * known).sum()))

            num_masks = global_avg_factor(matched.sum())
            logits = mask_preds[matched]
            if len(logits) == 0:
                return loss_cls, logits.sum(), logits.sum()
            ignored = torch.cat([
                (gt.masks[-1:] > 0).expand_as(target)
                for gt, target in zip(batch_gt_instances, targets, strict=True)
            ])
            logits, targets, labeled = self._compare(logits, torch.cat(targets), ignored)
            # An ignored pixel is made one that is surely and rightly outside: no loss, no gradient.
            logits = logits.masked_fill(~labeled, _OUTSIDE)
            targets = targets.masked_fill(~labeled, 0)
            weights = (1 / labeled.sum(1, keepdim=True).clamp_min(1)).to(logits)
            loss_dice = self.loss_dice(logits, targets, avg_factor=num_masks)
            loss_mask = self._mask_loss(logits.flatten(), targets.flatten(),
                                        weights.expand_as(logits).flatten(), num_masks)
            return loss_cls, loss_mask, loss_dice

    def _compare(self, logits: Tensor, targets: Tensor,
                 ignored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Bring logits and targets of matched masks to the same P pixels or points.

        Args:
            logits (Tensor): Shape (M, h, w).
            targets (Tensor): 0 or 1. Shape (M, H, W), int64.
            ignored (Tensor): Shape (M, H, W), bool.

        Returns:
            tuple[Tensor, Tensor, Tensor]: Logits, targets, and the pixels or points that take part
            (bool), each (M, P).
        """
        raise NotImplementedError

    def _mask_loss(self, logits: Tensor, targets: Tensor, weights: Tensor,
                   num_masks: Tensor) -> Tensor:
        """The configured ``loss_mask``, weighted, summed, and divided by the number of masks.

        Args:
            logits (Tensor): Shape (M * P, ).
            targets (Tensor): In [0, 1]. Shape (M * P, ).
            weights (Tensor): Shape (M * P, ).
            num_masks (Tensor): Scalar.

        Returns:
            Tensor: Scalar.
        """
        raise NotImplementedError
