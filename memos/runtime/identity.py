"""What a model's fingerprint is made of: configuration, weights and tokenizer, by content and never by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memos.activation.fingerprint import ModelIdentity
from memos.runtime.families import rope_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

#: Fields of a configuration that decide nothing about the cache, or that the fingerprint holds by themselves.
APART = {"architectures", "auto_map", "dtype", "name_or_path", "rope_parameters", "torch_dtype", "transformers_version"}


def identity_of(
    config: PreTrainedConfig, weights: Iterable[Path], tokenizer: PreTrainedTokenizerFast, dtype: str
) -> ModelIdentity:
    """Return the identity of a loaded model; ``weights`` are its weight files in a fixed order."""
    fields: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    canonical = {key: value for key, value in fields.items() if not key.startswith("_") and key not in APART}
    content = tokenizer.backend_tokenizer.to_str()
    return ModelIdentity(
        config=canonical,
        weights=digest_of(weights),
        tokenizer=hashlib.sha256(content.encode()).hexdigest(),
        rope=rope_of(config),
        dtype=dtype,
    )


def digest_of(paths: Iterable[Path]) -> str:
    """Return the hex SHA-256 over the digests of files, in order."""
    whole = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()
