# Licensed under the Apache License, Version 2.0.
import torch
from mmseg.registry import MODELS
from tiny_segmentor import NUM_CLASSES, query_segmentor_config

from mmseg_reco.models import QueryOutput
from mmseg_reco.models.segmentors.dense import DenseOutput


def test_scores_and_regions_are_of_the_last_layer_and_shared_out_where_queries_overlap():
    torch.manual_seed(0)
    model = MODELS.build(dict(query_segmentor_config(), type='QueryEncoderDecoder'))
    class_logits, mask_logits = ([4 * torch.randn(2, 3, *size) for _ in range(2)]
                                 for size in ((NUM_CLASSES + 1, ), (4, 6)))
    features = torch.randn(2, 8, 4, 6)
    dense = DenseOutput((), QueryOutput(class_logits, mask_logits, None, features), features)

    scores = torch.zeros(2, NUM_CLASSES, 4, 6)
    for query in range(3):
        chances = class_logits[1][:, query].softmax(1)[:, :-1]
        scores += chances[:, :, None, None] * mask_logits[1][:, query, None].sigmoid()
    total = scores.sum(1, keepdim=True)
    assert (total > 1.1).any() and (total < 0.9).any()
    probs = torch.where(total > 1, scores / total, scores)
    torch.testing.assert_close(model.probabilities(dense), probs)
    torch.testing.assert_close(model.class_logits(dense).exp(), probs, rtol=1e-4, atol=1e-6)

    regions = model.regions(dense)
    torch.testing.assert_close(regions.masks, mask_logits[1].sigmoid())
    torch.testing.assert_close(regions.semantic, probs)
    assert regions.class_logits is class_logits[1] and regions.features is features
