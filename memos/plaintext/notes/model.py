"""Notes by a language model: one call for several memories, every part of its answer checked, rules where it fails."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from memos.cube import LinkType
from memos.llm.completion import Completer, Spent
from memos.llm.structured import ask
from memos.plaintext.notes.attributes import (
    MAX_CONTEXT,
    MAX_ENTITIES,
    MAX_KEYWORDS,
    MAX_TAGS,
    MAX_TERM,
    MAX_TITLE,
    Attributes,
)
from memos.plaintext.notes.claims import STATE, Clash
from memos.plaintext.notes.linking import RELATED, Decision
from memos.plaintext.notes.member import Draft
from memos.plaintext.notes.prompt import NEIGHBOURS, LinkForm, NoteForm, NotesForm, RewriteForm, messages
from memos.plaintext.notes.scribe import Rewrite, Written, by_rules
from memos.plaintext.notes.sensitivity import SECRET, sensitivity

#: Memories in one call.
TOGETHER = 8
BOTH_CANNOT_HOLD = Clash(STATE, "the model finds that both cannot hold")


class ModelScribe:
    """Asks a model about :data:`TOGETHER` memories at a time, several calls at once.

    Texts that hold secrets are not shown to it; the rules write their notes.
    """

    def __init__(self, model: Completer, concurrency: int = 1) -> None:
        self.model = model
        self._concurrency = concurrency
        self.batch = TOGETHER * concurrency
        self.spent = Spent()

    def write(self, drafts: Sequence[Draft]) -> list[Written]:
        """Return a note for each draft."""
        open_ = [draft for draft in drafts if not _secret(draft)]
        groups = [open_[start : start + TOGETHER] for start in range(0, len(open_), TOGETHER)]
        with ThreadPoolExecutor(self._concurrency, "memos-notes-model") as pool:
            asked = list(pool.map(self._ask, groups))
        written = {}
        for notes, spent in asked:
            written.update(notes)
            self.spent = self.spent + spent
        return [written.get(draft.member.cube.id) or by_rules(draft) for draft in drafts]

    def close(self) -> None:
        """Close the connections of the model."""
        self.model.close()

    def _ask(self, drafts: Sequence[Draft]) -> tuple[dict[str, Written], Spent]:
        refs = _refs(drafts)
        answer = ask(self.model, messages(drafts, refs), NotesForm)
        if answer.value is None:
            return {draft.member.cube.id: by_rules(draft, answer.trouble) for draft in drafts}, answer.spent
        notes = {note.ref: note for note in answer.value.notes}
        return {
            draft.member.cube.id: self._written(draft, notes.get(refs[draft.member.cube.id]), refs) for draft in drafts
        }, answer.spent

    def _written(self, draft: Draft, note: NoteForm | None, refs: dict[str, str]) -> Written:
        if note is None:
            return by_rules(draft, f"{self.model.name} left this memory out")
        ruled = by_rules(draft)
        attributes = Attributes(
            title=_line(note.title, MAX_TITLE) or ruled.attributes.title,
            keywords=_terms(note.keywords, MAX_KEYWORDS) or ruled.attributes.keywords,
            tags=_terms(note.tags, MAX_TAGS) or ruled.attributes.tags,
            context=_line(note.context, MAX_CONTEXT) or ruled.attributes.context,
            entities=_terms(note.entities, MAX_ENTITIES),
            language=ruled.attributes.language,
            sensitivity=ruled.attributes.sensitivity,
            importance=round(note.importance, 3),
            event_time=ruled.attributes.event_time,
        )
        decisions = _decisions(draft, note.links, refs)
        rewrites = _rewrites(decisions, note.rewrites, refs)
        return Written(attributes, decisions, rewrites, self.model.name, seen=tuple(refs))


def _refs(drafts: Sequence[Draft]) -> dict[str, str]:
    """Return short names for the new memories and for the earlier ones that may be shown, by cube id."""
    refs = {draft.member.cube.id: f"new{place}" for place, draft in enumerate(drafts, 1)}
    for draft in drafts:
        for near in draft.near[:NEIGHBOURS]:
            cube = near.member.cube
            if cube.governance.sensitivity != SECRET and sensitivity(cube.text or "") != SECRET:
                refs.setdefault(cube.id, f"earlier{len(refs)}")
    return refs


def _decisions(draft: Draft, links: Iterable[LinkForm], refs: dict[str, str]) -> list[Decision]:
    """Return the links to memories that were shown with a draft; names that mean nothing there are left out.

    A contradiction needs more than the model's word: the two texts must be related.
    """
    near = {refs[one.member.cube.id]: one for one in draft.near[:NEIGHBOURS] if one.member.cube.id in refs}
    found: dict[str, Decision] = {}
    for link in links:
        one, kind = near.get(link.ref), LinkType(link.type)
        if one is None or (kind is LinkType.CONTRADICTS and one.similarity < RELATED and not one.names):
            continue
        clash = BOTH_CANNOT_HOLD if kind is LinkType.CONTRADICTS else None
        found.setdefault(link.ref, Decision(one, kind, link.strength, clash))
    return list(found.values())


def _rewrites(decisions: Sequence[Decision], forms: Iterable[RewriteForm], refs: dict[str, str]) -> list[Rewrite]:
    linked = {refs[decision.near.member.cube.id]: decision.near.member.cube.id for decision in decisions}
    return [_rewrite(linked[form.ref], form) for form in forms if form.ref in linked]


def _rewrite(cube_id: str, form: RewriteForm) -> Rewrite:
    wanted = {
        "title": _line(form.title, MAX_TITLE),
        "context": _line(form.context, MAX_CONTEXT),
        "keywords": _terms(form.keywords, MAX_KEYWORDS),
        "tags": _terms(form.tags, MAX_TAGS),
    }
    return Rewrite(cube_id, {name: value for name, value in wanted.items() if value}, _line(form.reason, MAX_CONTEXT))


def _secret(draft: Draft) -> bool:
    return sensitivity(draft.member.cube.text or "") == SECRET


def _terms(given: Iterable[str], most: int) -> tuple[str, ...]:
    """Return distinct terms that can be stored."""
    cleaned = (_line(term, MAX_TERM) for term in given)
    return tuple(dict.fromkeys(term for term in cleaned if term))[:most]


def _line(text: str, longest: int) -> str:
    """Return a text on one line, without what no store takes: NUL, control characters, lone surrogates."""
    kept = "".join(c if c.isprintable() else " " for c in text if not "\ud800" <= c <= "\udfff")
    return " ".join(kept.split())[:longest].strip()
