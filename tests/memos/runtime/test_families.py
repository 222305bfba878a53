"""Models that would be run wrongly are refused by the name of what stands in the way."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig, PreTrainedConfig

from memos.activation.kv import KVShape
from memos.errors import ModelUnsupported
from memos.runtime.families import check_supported, shape_of

SMALL = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 4}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 8,
    "long_factor": [2.0] * 8,
    "original_max_position_embeddings": 2048,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 512}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}


def config_of(family: str, **own: Any) -> PreTrainedConfig:
    return AutoConfig.for_model(family, **{**SMALL, **own})


@pytest.mark.parametrize(
    ("family", "own", "reason"),
    [
        ("gpt2", {}, "'gpt2'"),
        ("gemma2", {}, "'gemma2'"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "'dynamic'"),
        ("llama", {"rope_parameters": LONGROPE}, "'longrope'"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "0.5",
        ),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 1024, "max_window_layers": 2}, "sliding-window"),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 1024, "max_window_layers": 0}, "sliding-window"),
        ("mistral", {"sliding_window": 4096, "max_position_embeddings": 32768}, "sliding-window"),
        ("llama", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised"),
    ],
)
def test_model_that_would_run_wrongly_is_refused(family: str, own: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelUnsupported, match=reason):
        check_supported(config_of(family, **own))


@pytest.mark.parametrize(
    ("family", "own"),
    [
        ("llama", {}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}),
        ("llama", {"rope_parameters": LLAMA3}),
        ("qwen2", {}),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 1024}),
        ("qwen3", {"rope_parameters": YARN}),
        ("mistral", {"sliding_window": None}),
        ("mistral", {"sliding_window": 4096, "max_position_embeddings": 4096}),
    ],
)
def test_model_that_runs_rightly_is_accepted(family: str, own: dict[str, Any]) -> None:
    check_supported(config_of(family, **own))


def test_shape_takes_head_size_from_the_configuration() -> None:
    assert shape_of(config_of("qwen3", head_dim=32), "bfloat16") == KVShape(4, 2, 32, "bfloat16")
    assert shape_of(config_of("llama"), "float32") == KVShape(4, 2, 16, "float32")
