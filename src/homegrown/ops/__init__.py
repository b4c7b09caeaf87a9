"""The operations the model is made of: a reference in plain PyTorch each, faster implementations beside it."""

from homegrown.ops.attention import attention
from homegrown.ops.cross_entropy import linear_cross_entropy
from homegrown.ops.experts import experts
from homegrown.ops.grouped import grouped_outer, grouped_product
from homegrown.ops.indexing import core_targets, index_scores, indexer_loss, select
from homegrown.ops.int8 import Int8, dequantise, int8_linear, int8_product_of, int8_rows, quantise, scale_dtype
from homegrown.ops.int8_experts import int8_experts
from homegrown.ops.latent import expand_keys, latent_attention
from homegrown.ops.linear import linear
from homegrown.ops.norm import rms_norm
from homegrown.ops.registry import OPS, table, using
from homegrown.ops.rotary import rotary
from homegrown.ops.rows import row, row_by_row
from homegrown.ops.saved import recomputable, remember, saving
from homegrown.ops.span import Span
from homegrown.ops.swiglu import swiglu

__all__ = [
    "OPS",
    "Int8",
    "Span",
    "attention",
    "core_targets",
    "dequantise",
    "expand_keys",
    "experts",
    "grouped_outer",
    "grouped_product",
    "index_scores",
    "indexer_loss",
    "int8_experts",
    "int8_linear",
    "int8_product_of",
    "int8_rows",
    "latent_attention",
    "linear",
    "linear_cross_entropy",
    "quantise",
    "recomputable",
    "remember",
    "rms_norm",
    "rotary",
    "row",
    "row_by_row",
    "saving",
    "scale_dtype",
    "select",
    "swiglu",
    "table",
    "using",
]
