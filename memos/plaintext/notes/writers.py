"""Which scribe the settings ask for."""

from __future__ import annotations

from memos.config import LOCAL, OFF, OFFLINE, Settings
from memos.errors import InvalidInput
from memos.llm.local import LocalCompleter
from memos.llm.openai import OpenAICompleter
from memos.plaintext.notes.model import ModelScribe
from memos.plaintext.notes.scribe import OfflineScribe, Scribe
from memos.runtime.host import ModelHost

OPENAI = "openai:"


def scribe_of(settings: Settings, models: ModelHost) -> Scribe:
    """Return who writes notes. Raises :class:`InvalidInput` for a writer that there is not."""
    if settings.notes in (OFF, OFFLINE):
        return OfflineScribe()
    if settings.notes == LOCAL:
        return ModelScribe(LocalCompleter(models))
    model = settings.notes.removeprefix(OPENAI)
    if not settings.notes.startswith(OPENAI) or not model:
        raise InvalidInput(f"MEMOS_NOTES must be off, offline, local or openai:MODEL, not {settings.notes!r}")
    completer = OpenAICompleter(
        model,
        settings.llm_base_url,
        settings.llm_api_key.get_secret_value(),
        timeout_s=settings.llm_timeout_s,
        prices=(settings.llm_prompt_price, settings.llm_completion_price),
    )
    return ModelScribe(completer, settings.llm_concurrency)
