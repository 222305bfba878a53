"""Which models this runtime runs rightly, and by name why not another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from memos.activation.kv import KVShape
from memos.errors import ModelUnsupported

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

#: Decoders of the Llama form: one KV cache per layer, keys rotated whole, full causal attention.
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
#: RoPE types whose frequencies depend on nothing but the configuration, so that a stored key stays right.
STATIC_ROPE = ("default", "linear", "llama3", "yarn")


def check_family(model_type: str | None) -> None:
    """Refuse another kind of model. Raises :class:`ModelUnsupported`."""
    if model_type not in FAMILIES:
        raise ModelUnsupported(f"models of type {model_type!r} are not supported; these are: {', '.join(FAMILIES)}")


def check_supported(config: PreTrainedConfig) -> None:
    """Refuse a model that would be run wrongly. Raises :class:`ModelUnsupported` naming what stands in the way."""
    check_family(config.model_type)
    _check_rope(rope_of(config))
    _check_window(config)
    if getattr(config, "quantization_config", None) is not None:
        raise ModelUnsupported("quantised checkpoints are not supported; load the model's float weights")


def check_rotation(config: PreTrainedConfig) -> None:
    """Refuse a model whose cached keys cannot be moved by turning them. Raises :class:`ModelUnsupported`."""
    _check_rope(rope_of(config))


def rope_of(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the rotary parameters in force."""
    return dict(getattr(config, "rope_parameters", None) or {})


def shape_of(config: PreTrainedConfig, dtype: str) -> KVShape:
    """Return what one token's cache looks like."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return KVShape(config.num_hidden_layers, config.num_key_value_heads, head_dim, dtype)


def _check_rope(rope: Mapping[str, Any]) -> None:
    kind = rope.get("rope_type", "default")
    if kind not in STATIC_ROPE:
        why = (
            "its frequencies change with the length of the text" if kind in ("dynamic", "longrope") else "unknown here"
        )
        raise ModelUnsupported(f"RoPE of type {kind!r} is not supported ({why}); these are: {', '.join(STATIC_ROPE)}")
    factor = rope.get("partial_rotary_factor")
    if factor not in (None, 1, 1.0):
        raise ModelUnsupported(f"partial rotary embeddings (partial_rotary_factor={factor}) are not supported")


def _check_window(config: PreTrainedConfig) -> None:
    """Refuse attention windows that are shorter than the context; Qwen configs name the layers that have one."""
    window = getattr(config, "sliding_window", None)
    layers = getattr(config, "layer_types", None) or ["full_attention"]
    others = set(layers) - {"full_attention", "sliding_attention"}
    if others:
        raise ModelUnsupported(f"layers of type {sorted(others)[0]!r} are not supported")
    sliding = "sliding_attention" in layers or config.model_type == "mistral"
    if sliding and window is not None and window < config.max_position_embeddings:
        raise ModelUnsupported(
            f"sliding-window attention ({window} of {config.max_position_embeddings} tokens) is not supported"
        )
