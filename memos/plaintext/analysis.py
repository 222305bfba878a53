"""From text to terms: normalise, split, drop stop words, stem."""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Iterator

import Stemmer

#: Words, numbers and dotted/hyphenated pieces; CJK, which has no spaces, is cut into overlapping pairs.
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*", re.UNICODE)
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]+")
_local = threading.local()

#: Closed-class English words (articles, pronouns, auxiliaries, prepositions, conjunctions, question words) and their
#: contractions: they say how a sentence is built, not what it is about.
STOP_WORDS = frozenset(
    """
    a about above after again against ain all also am an and any are aren arent as at be because been before being
    below between both but by can cant could couldn couldnt d did didn didnt do does doesn doesnt doing don dont down
    during each few for from further had hadn hadnt has hasn hasnt have haven havent having he hed hell her here hers
    herself hes him himself his how i id if ill im in into is isn isnt it its itself ive just ll m me might mightn more
    most must mustn my myself need needn no nor not now o of off on once only or other our ours ourselves out over own
    re s same shall shan she shed shell shes should shouldn shouldnt so some such t than that thats the their theirs
    them themselves then there theres these they theyd theyll theyre theyve this those through to too under until up
    ve very was wasn wasnt we wed well were weren werent weve what when where which while who whom whose why will with
    won wont would wouldn wouldnt y yes you youd youll your youre yours yourself yourselves youve
    """.split()
)


def terms(text: str) -> list[str]:
    """Return the stems of the content words of ``text``, in order, repeats kept."""
    stems: list[str] = _stemmer().stemWords([word for word in words(text) if word not in STOP_WORDS])
    return stems


def words(text: str) -> Iterator[str]:
    """Return the lower-case words of ``text``: NFKC, possessives and apostrophes dropped, CJK as character pairs."""
    if text.isascii() and "'" not in text:
        return iter(_WORD.findall(text.lower()))  # most texts: nothing is to be folded
    return _folded_words(unicodedata.normalize("NFKC", text))


def _folded_words(text: str) -> Iterator[str]:
    for match in _WORD.finditer(text.lower()):
        word = match.group().replace("’", "'")
        word = word.removesuffix("'s").replace("'", "")
        if word.isascii():
            yield word
        else:
            yield from _split_cjk(word)


def _split_cjk(word: str) -> Iterator[str]:
    position = 0
    for run in _CJK.finditer(word):
        if run.start() > position:
            yield word[position : run.start()]
        piece = run.group()
        yield from (piece[i : i + 2] for i in range(max(1, len(piece) - 1)))
        position = run.end()
    if position < len(word):
        yield word[position:]


def _stemmer() -> Stemmer.Stemmer:
    """Return this thread's stemmer: the C object must not be shared between threads."""
    if not hasattr(_local, "stemmer"):
        _local.stemmer = Stemmer.Stemmer("english")
    stemmer: Stemmer.Stemmer = _local.stemmer
    return stemmer
