"""From a setting to an embedder."""

from __future__ import annotations

from memos.config import Settings
from memos.embedding.base import Embedder
from memos.embedding.local import LocalEmbedder


def make_embedder(settings: Settings, name: str | None = None) -> Embedder:
    """Build the embedder named by ``name`` or the settings; nothing is loaded yet."""
    chosen = name or settings.embedder
    if chosen.startswith("openai:"):
        from memos.embedding.openai import OpenAIEmbedder

        return OpenAIEmbedder(
            chosen.removeprefix("openai:"),
            settings.openai_base_url,
            settings.openai_api_key.get_secret_value(),
            batch=settings.embed_batch,
        )
    return LocalEmbedder(chosen, settings.embed_batch)
