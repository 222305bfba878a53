"""What tests of several parts of the engine share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def tiny_sizes() -> dict[str, int]:
    """The sizes of a random model of two layers."""
    return {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
