# Licensed under the Apache License, Version 2.0.
from .embedding_encoder_decoder import EmbeddingCascadeEncoderDecoder, EmbeddingEncoderDecoder
from .mean_teacher_reco import MeanTeacherReCo
from .query_encoder_decoder import QueryEncoderDecoder
from .rc2l import RC2L
from .semi_base import SemiBaseSegmentor

__all__ = [
    'EmbeddingCascadeEncoderDecoder', 'EmbeddingEncoderDecoder', 'MeanTeacherReCo',
    'QueryEncoderDecoder', 'RC2L', 'SemiBaseSegmentor'
]
