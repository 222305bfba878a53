"""A Llama of two layers with random weights and the bundled tokenizer: for what needs a model, whatever it says."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from memos.runtime.loading import load_model

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def save_tiny_model(folder: Path) -> None:
    """Write the model, in the form in which ``MEMOS_MODEL`` takes one."""
    tokenizer = load_model().tokenizer
    torch.manual_seed(1)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = AutoConfig.for_model("llama", vocab_size=len(tokenizer), **ends, **SIZES)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
