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
SLACK = 12
#: Requests that are in the loop at once: their caches, and the patience of those who chat meanwhile, are finite.
TOGETHER = 64
_ARTICLES = frozenset({"a", "an", "the"})


def answers(
    serving: Serving, asked: Sequence[tuple[Example, Trained | None]], owner: str, slack: int = SLACK
) -> list[str]:
    """Return the greedy answers to the prompts of some examples, through the loop that serves everybody.

    Each is asked of what was trained, or of the bare model. Those of one ``owner`` share what they begin with.
    """
    found = []
    try:
        for first in range(0, len(asked), TOGETHER):
            requests = [_request(*one, owner, slack) for one in asked[first : first + TOGETHER]]
            found += [answer.text for answer in serving.runtime.answers(requests)]
    finally:
        serving.runtime.drop_adapters({trained.digest for _, trained in asked if trained is not None})
    return found


def _request(example: Example, trained: Trained | None, owner: str, slack: int) -> Request:
    tokens, length = example.prompt, len(example.answer) + slack
    if trained is None:
        return Request(tokens, max_tokens=length, owner=owner)
    if isinstance(trained, Adapter):
        adapter = AdapterUse(trained.digest, lambda: trained)
        return Request(tokens, max_tokens=length, owner=owner, adapters=(adapter,))
    cartridge = Cartridge(trained.digest, trained.tokens, lambda: trained.kv)
    return Request(tokens[:1] * trained.tokens + tokens, max_tokens=length, owner=owner, cartridge=cartridge)


def holds(text: str, answer: str) -> bool:
    """Whether a text holds an answer, word for word, but for case, punctuation, accents' form and articles."""
    wanted = _words(answer)
    return bool(wanted) and f" {' '.join(wanted)} " in f" {' '.join(_words(text))} "


def _words(text: str) -> list[str]:
    found = re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())
    return [word for word in found if word not in _ARTICLES]
