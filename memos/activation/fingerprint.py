"""The fingerprint: what a KV file depends on, in one digest. Another fingerprint is a miss, never a wrong answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Version of the container format; a change makes every older file a miss.
CONTAINER_VERSION = 1
#: The adapter digest of the bare model.
BASE = "base"


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Everything that decides what a model's KV cache holds.

    ``config`` is the model's configuration without names and paths, ``weights`` and ``tokenizer`` are hex SHA-256
    digests of their files, ``rope`` the rotary parameters in force, ``dtype`` the computing dtype by name.
    """

    config: Mapping[str, Any]
    weights: str
    tokenizer: str
    rope: Mapping[str, Any]
    dtype: str
    adapter: str = BASE

    @property
    def base(self) -> str:
        """Hex SHA-256 of configuration, weights and tokenizer: the model that an adapter is made for, at any dtype."""
        parts = {"config": dict(self.config), "weights": self.weights, "tokenizer": self.tokenizer}
        return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 over the canonical JSON of all fields and the container version (design §6)."""
        parts = {
            "config": dict(self.config),
            "weights": self.weights,
            "tokenizer": self.tokenizer,
            "rope": dict(self.rope),
            "dtype": self.dtype,
            "adapter": self.adapter,
            "container": CONTAINER_VERSION,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
