"""What a text is about, in a few words: YAKE (Campos et al. 2020, Information Sciences 509), unsupervised.

The library cuts a text into terms and candidates and tells near-repetitions apart. Terms are weighed here, by the same
equations: half of the library's time goes into a graph's views and medians of a few numbers. What it caches of a text
is dropped with the text.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Iterator
from statistics import median
from typing import Any

from memos.plaintext.analysis import STOP_WORDS, terms, words
from memos.plaintext.dates import MONTHS, WEEKDAYS
from memos.plaintext.notes.attributes import MAX_TERM

#: Characters of a text that keywords are taken from: what it is about stands near its beginning.
READ = 2_000
#: Texts of fewer content words are their own keywords.
SHORT = 4
DEFAULT_LANGUAGE = "en"
#: Words of a phrase at most, phrases that are ranked, and from which likeness one repeats another.
LONGEST, RANKED, ALIKE = 2, 30, 0.8
#: Times and interjections: A-MEM's keywords name neither.
_IDLE = frozenset(
    """
    yesterday today tomorrow tonight morning afternoon evening night day days week weeks weekend month months year years
    hour hours minute minutes ago last next recently lately soon yeah yep nope ok okay hey hi hello thanks thank wow oh
    haha great really actually definitely totally gonna wanna let lets got get getting
    """.split()
) | {*MONTHS, *WEEKDAYS}
_CODE = re.compile(r"```.*?(?:```|$)", re.S)
_LANGUAGES = frozenset(
    "ar bg br cz da de el en es et fa fi fr hi hr hu hy id it ja lt lv nl no pl pt ro ru sk sl sv tr uk zh".split()
)


def keywords(text: str, language: str | None, avoided: frozenset[str], limit: int) -> tuple[str, ...]:
    """Return up to ``limit`` words or pairs of words, most telling first, lower case; none of the ``avoided`` ones."""
    prose, avoided = _CODE.sub(" ", text)[:READ], avoided | _IDLE
    content = list(dict.fromkeys(word for word in words(prose) if word not in STOP_WORDS and word not in avoided))
    if len(content) <= SHORT:
        return tuple(content[:limit])
    found = list(_distinct(ranked(prose, language), avoided))
    return tuple(found[:limit]) or tuple(content[:limit])


def _distinct(phrases: Iterable[str], avoided: frozenset[str]) -> Iterator[str]:
    """Yield phrases that say something new: not the stems of an earlier one again, and no avoided word."""
    said: set[frozenset[str]] = set()
    for phrase in phrases:
        low = " ".join(phrase.lower().split())
        stems = frozenset(terms(low))
        if not stems or len(low) > MAX_TERM or avoided.intersection(words(low)) or any(stems <= one for one in said):
            continue
        said.add(stems)
        yield low


def ranked(text: str, language: str | None) -> list[str]:
    """Return up to :data:`RANKED` words and phrases, most telling first."""
    from yake.data import DataCore  # takes a while: networkx

    extractor = _extractor(language)
    core = DataCore(text.replace("\n", " "), extractor.stopword_set, {"windows_size": 1, "n": LONGEST})
    _weigh(core)
    candidates = [one for one in core.candidates.values() if one.is_valid()]
    for one in candidates:
        one.update_h()
    kept: list[Any] = []
    for one in sorted(candidates, key=lambda one: one.h):
        if all(extractor.dedup_function(one.unique_kw, other.unique_kw) <= ALIKE for other in kept):
            kept.append(one)
        if len(kept) == RANKED:
            break
    extractor.clear_caches()
    return [one.kw for one in kept]


def _weigh(core: Any) -> None:
    """Set the weight of every term, smaller for those that tell more (Campos et al. 2020, equations 1 to 6)."""
    terms_ = list(core.terms.values())
    counts = [term.tf for term in terms_ if not term.stopword]
    if not counts:
        return
    mean = sum(counts) / len(counts)
    usual = mean + math.sqrt(sum((count - mean) ** 2 for count in counts) / len(counts))
    most = max(term.tf for term in terms_)
    for term in terms_:
        share, metric = term.tf / most, term.get_metric
        sides = (_dispersion(core.g.pred[term.id]), _dispersion(core.g.succ[term.id]))
        relatedness = (0.5 + sides[0] * share) + (0.5 + sides[1] * share)
        casing = max(metric("tf_a"), metric("tf_n")) / (1 + math.log(term.tf))
        position = math.log(math.log(3 + median(term.occurs)))
        spread = len(term.occurs) / core.number_of_sentences
        term.h = position * relatedness / (casing + term.tf / usual / relatedness + spread / relatedness)


def _dispersion(beside: Any) -> float:
    """Return how many different terms stand on one side of a term, by how often one does."""
    return len(beside) / sum(edge["tf"] for edge in beside.values()) if beside else 0.0


@functools.lru_cache(maxsize=8)
def _extractor(language: str | None) -> Any:
    import yake

    known = language if language in _LANGUAGES else DEFAULT_LANGUAGE
    return yake.KeywordExtractor(lan=known, n=LONGEST)
