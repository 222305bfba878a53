"""Numeric kernels over pages: gather, dequantise, rotate, attend, score, and multiply adapters.

One package per operation, each with up to three forms behind one dispatcher: ``reference`` (plain PyTorch, float32
maths; what the others are tested against), ``cpu`` (numba) and ``gpu`` (Triton). This package imports without numba,
Triton or a GPU; a form that is missing falls back to the reference.

A *pool* is ``[pages, heads, page_tokens, head_dim]``: a page holds some tokens of all heads, head by head. A *page
table* (int32) says which page holds which block of tokens. A contiguous ``[heads, tokens, head_dim]`` is a pool of one
page, so every operation works on both.
"""

from memos_kernels.adapters import AdapterStep, apply_adapters
from memos_kernels.attention import paged_attention_decode, paged_attention_prefill
from memos_kernels.load import dequant_rotate_gather
from memos_kernels.lora import LoraPlan, RankRows, lora_expand, lora_shrink, plan_lora
from memos_kernels.lse import combine_lse
from memos_kernels.pages import gather_pages, scatter_pages
from memos_kernels.quantise import ErrorStatistics, QuantisedPages, quantise_pages
from memos_kernels.rotate import delta_angles, rotate_keys
from memos_kernels.scores import token_scores

__all__ = [
    "AdapterStep",
    "ErrorStatistics",
    "LoraPlan",
    "QuantisedPages",
    "RankRows",
    "apply_adapters",
    "combine_lse",
    "delta_angles",
    "dequant_rotate_gather",
    "gather_pages",
    "lora_expand",
    "lora_shrink",
    "paged_attention_decode",
    "paged_attention_prefill",
    "plan_lora",
    "quantise_pages",
    "rotate_keys",
    "scatter_pages",
    "token_scores",
]
