"""Criteria: one score per prunable neuron, from weights and calibration statistics."""

from .attention_scores import query_key_scores
from .blocks import block_scores
from .elimination import elimination_scores
from .heads import eliminate_heads, snp_head_scores
from .redundancy import redundancy_scores
from .residual import residual_scores
from .rotary import elimination_pair_scores, pair_gram, pair_scores, pair_target
from .scores import Scores


__all__ = [
    "Scores",
    "block_scores",
    "eliminate_heads",
    "elimination_pair_scores",
    "elimination_scores",
    "pair_gram",
    "pair_scores",
    "pair_target",
    "query_key_scores",
    "redundancy_scores",
    "residual_scores",
    "snp_head_scores",
]
