"""Does a text say what another one said before, in other words?"""

from __future__ import annotations

from memos.plaintext.analysis import STOP_WORDS, terms, words
from memos.plaintext.notes.claims import clash
from memos.plaintext.notes.entities import entities
from memos.plaintext.notes.member import Member

#: Cosine from which two texts with the same names, numbers and negations are taken to say the same, and from which two
#: of the same words do.
SAME_MEANING, SAME_WORDS = 0.86, 0.8
#: The shorter text has at least this share of the words of the longer one, and the new one adds no more words.
SIZE, ADDED = 0.5, 3
_NEGATIONS = frozenset({"not", "no", "never", "nobody", "nothing", "without", "nor"})


def same_fact(new: Member, old: Member, similarity: float) -> bool:
    """Return whether ``new`` adds nothing to ``old``: same author and circumstances, numbers, names and negations.

    Circumstances are what a recall may be narrowed by: agent, run, metadata. What expires is no duplicate.
    """
    mine, theirs = new.cube, old.cube
    if (mine.provenance.author, mine.scope, mine.metadata) != (theirs.provenance.author, theirs.scope, theirs.metadata):
        return False
    if mine.time.expires_at or theirs.time.expires_at:
        return False
    if new.spoken.strip().casefold() == old.spoken.strip().casefold():
        return True
    least = SAME_WORDS if new.stems == old.stems else SAME_MEANING
    return (
        similarity >= least
        and _telling(new.spoken) == _telling(old.spoken)
        and min(len(new.stems), len(old.stems)) >= SIZE * max(len(new.stems), len(old.stems), 1)
        and len(new.stems - old.stems) <= ADDED
        and all(stems <= old.stems for stems in _names(new))
        and all(stems <= new.stems for stems in _names(old))
        and clash(new.claims, old.claims) is None
    )


def numbers(text: str) -> frozenset[str]:
    """Return the numbers in a text that are written in digits."""
    return frozenset(word for word in words(text) if word.isdigit())


def denies(text: str) -> bool:
    """Return whether a text denies something."""
    return any(word in _NEGATIONS or (word.endswith("nt") and word in STOP_WORDS) for word in words(text))


def _telling(text: str) -> tuple[frozenset[str], bool, bool]:
    """Return the numbers of a text, whether it denies something, and whether it asks."""
    return numbers(text), denies(text), text.rstrip().endswith("?")


def _names(member: Member) -> list[frozenset[str]]:
    """Return the stems of every name in a text."""
    return [frozenset(terms(name)) for name in entities(member.spoken, member.cube.provenance.author)]
