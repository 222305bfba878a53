"""Asking the model that serves, with what was trained or without, and whether an answer holds what it should."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from memos.parametric.adapter import Adapter
from memos.parametric.checks import Trained
from memos.parametric.distil.examples import Example
from memos.runtime.host import Serving
from memos.runtime.loop import Request
from memos.runtime.uses import AdapterUse, Cartridge

#: Tokens that an answer may have beyond what it should be.
SLACK = 16
#: Requests that are in the loop at once: their caches, and the patience of those who chat meanwhile, are finite.
TOGETHER = 32
_ARTICLES = frozenset({"a", "an", "the"})


def answers(serving: Serving, asked: Sequence[Example], trained: Trained | None, owner: str) -> list[str]:
    """Return the greedy answers to the prompts of some examples, through the loop that serves everybody.

    Those of one ``owner`` share what they begin with.
    """
    found = []
    try:
        for first in range(0, len(asked), TOGETHER):
            requests = [_request(one, trained, owner) for one in asked[first : first + TOGETHER]]
            found += [answer.text for answer in serving.runtime.answers(requests)]
    finally:
        if trained is not None:
            serving.runtime.drop_adapters([trained.digest])
    return found


def _request(example: Example, trained: Trained | None, owner: str) -> Request:
    how = {"max_tokens": len(example.answer) + SLACK, "owner": owner}
    if trained is None:
        return Request(example.prompt, **how)  # type: ignore[arg-type]
    if isinstance(trained, Adapter):
        use = AdapterUse(trained.digest, lambda: trained)
        return Request(example.prompt, adapters=(use,), **how)  # type: ignore[arg-type]
    cartridge = Cartridge(trained.digest, trained.tokens, lambda: trained.kv)
    filled = example.prompt[:1] * trained.tokens + example.prompt
    return Request(filled, cartridge=cartridge, **how)  # type: ignore[arg-type]


def holds(text: str, answer: str) -> bool:
    """Whether a text holds an answer, word for word, but for case, punctuation, accents' form and articles."""
    wanted = _words(answer)
    return bool(wanted) and f" {' '.join(wanted)} " in f" {' '.join(_words(text))} "


def _words(text: str) -> list[str]:
    found = re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())
    return [word for word in found if word not in _ARTICLES]
