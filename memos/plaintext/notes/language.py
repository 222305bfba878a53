"""The language of a text, told by py3langid's classifier (Lui & Baldwin 2012, langid.py)."""

from __future__ import annotations

import functools
from typing import Any

#: Fewest letters that tell a language, and the least probability it is told with.
LETTERS, SURE = 20, 0.8
_READ = 1_000


def language(text: str) -> str | None:
    """Return an ISO 639-1 code, ``None`` where the text is too short or could be several."""
    sample = text[:_READ]
    if sum(map(str.isalpha, sample)) < LETTERS:
        return None
    code, probability = _classifier().classify(sample)
    return str(code) if probability >= SURE else None


@functools.lru_cache(maxsize=1)
def _classifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
