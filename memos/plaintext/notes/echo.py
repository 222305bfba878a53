"""Is a text what recall put into a prompt, come back? Then it is no new memory (mem0#4573: 97.8 % of a store)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from memos.plaintext.analysis import words
from memos.plaintext.notes.member import Draft, Near

#: A line as a recalled context has it: ``[2026-05-08] text``.
_LINE = re.compile(r"^\s*(?:[-*•>]\s*)?\[\d{4}-\d\d-\d\d(?: \d\d:\d\d)?\]\s*(?P<text>\S.*)$", re.M)
#: Least share of a text's pairs of words that come from memories; what answers for a model is judged by less.
WHOLE, SPOKEN = 0.9, 0.8
#: Words from which a text can be an echo: "Thanks!" is said again and again.
LEAST = 6
MODELS = frozenset({"assistant", "ai", "bot", "system", "tool"})


def echoed(draft: Draft) -> tuple[str, ...]:
    """Return the ids of the memories that a text repeats, none if it says something of its own.

    Repeats are lines rendered by recall, several memories in one text, or what a model says word for word.
    """
    text = draft.member.spoken
    rendered = [match["text"] for match in _LINE.finditer(draft.member.cube.text or "")]
    own = [*words("\n".join(rendered) if rendered else text)]
    if len(own) < LEAST:
        return ()
    by_model = (draft.member.cube.provenance.author or "").casefold() in MODELS
    used, share = _sources(own, draft.near)
    if rendered and len(" ".join(rendered)) < WHOLE * len(text.strip()) * 0.8:
        return ()  # a quotation within something of its own
    if share < (SPOKEN if by_model else WHOLE):
        return ()
    return tuple(used) if rendered or by_model or len(used) > 1 else ()


def _sources(text: Sequence[str], near: Sequence[Near]) -> tuple[list[str], float]:
    """Return which memories the pairs of adjacent words come from, and the share of pairs that come from one."""
    left = set(pairwise(text))
    total, used = len(left), []
    for one in near:
        theirs = set(pairwise(words(one.member.spoken)))
        if len(theirs) >= 2 and len(theirs & left) >= WHOLE * len(theirs):
            used.append(one.member.cube.id)
            left -= theirs
    seams = max(0, len(used) - 1)  # pairs across two memories come from neither
    return used, 1 - max(0, len(left) - seams) / max(total, 1)
