"""A language model of two layers with random weights, written without loading any library that runs models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

END = "</s>"
HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, WINDOW = 64, 128, 2, 4, 2, 2_048


def save_tiny_model(folder: Path) -> None:
    """Write a Llama that reads bytes, in the form in which ``MEMOS_MODEL`` takes one."""
    folder.mkdir()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={symbol: place for place, symbol in enumerate([*alphabet, END])}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.save(str(folder / "tokenizer.json"))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(alphabet) + 1,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": WINDOW,
        "bos_token_id": None,
        "eos_token_id": len(alphabet),
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    save_file(_weights(len(alphabet) + 1), folder / "model.safetensors", metadata={"format": "pt"})


def _weights(vocabulary: int) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(1)
    shared = HIDDEN * KV_HEADS // HEADS
    shapes = {"embed_tokens": (vocabulary, HIDDEN), "norm": (HIDDEN,)}
    for layer in range(LAYERS):
        at = f"layers.{layer}"
        shapes |= {f"{at}.self_attn.{name}_proj": (HIDDEN, HIDDEN) for name in "qo"}
        shapes |= {f"{at}.self_attn.{name}_proj": (shared, HIDDEN) for name in "kv"}
        shapes |= {f"{at}.mlp.{name}_proj": (INNER, HIDDEN) for name in ("gate", "up")}
        shapes |= {f"{at}.mlp.down_proj": (HIDDEN, INNER)}
        shapes |= {f"{at}.{name}_layernorm": (HIDDEN,) for name in ("input", "post_attention")}
    return {
        f"model.{name}.weight": np.ones(shape, np.float32)
        if len(shape) == 1
        else random.normal(0, 0.02, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
