"""What the demo stores and asks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

FRIENDS = "maya-tom"
READER = "reader"
_CHAPTER = "CHAPTER "
_BREAK = "* * *"
_ALICE = (
    ("How tall was Alice after drinking from the bottle?", "ten inches high"),
    (
        "What made Alice shrink again in the hall in chapter two?",
        "the cause of this was the fan she was holding",
    ),
    ("Who won the Caucus-race?", "Everybody has won, and all must have prizes"),
    ("What prize did Alice herself get?", "the thimble"),
)


@dataclass(frozen=True, slots=True)
class Batch:
    """Memories that belong together: a session of a conversation, a chapter of a book."""

    user_id: str
    run_id: str
    items: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its answer, and the places that prove it; ``superseded`` are statements that no longer hold."""

    user_id: str
    text: str
    answer: str
    evidence: tuple[str, ...]
    superseded: tuple[str, ...] = ()


def reference(metadata: Mapping[str, Any]) -> str:
    """Return the place a memory came from: the turn of a session, or the paragraph of a chapter."""
    place: str = metadata["dia_id"] if "dia_id" in metadata else metadata["paragraph"]
    return place


def load() -> tuple[list[Batch], list[Question]]:
    """Return everything that is stored and everything that is asked."""
    sample = json.loads(_read("conversation.json"))
    chapters = list(_chapters(_read("alice.txt")))
    questions = [_question(entry) for entry in sample["qa"]]
    questions += [_about_alice(text, answer, chapters) for text, answer in _ALICE]
    return [*_sessions(sample["conversation"]), *chapters], questions


def session_time(written: str) -> datetime:
    """Read a time as conversations write it: ``7:42 pm on 9 January, 2025``."""
    return datetime.strptime(written, "%I:%M %p on %d %B, %Y").replace(tzinfo=UTC)


def _read(name: str) -> str:
    return (files("memos.demo") / name).read_text(encoding="utf-8")


# ---------------------------------------------------------------- the conversation


def _sessions(conversation: Mapping[str, Any]) -> Iterator[Batch]:
    number = 1
    while (name := f"session_{number}") in conversation:
        moment = session_time(conversation[f"{name}_date_time"])
        turns = tuple(_turn(turn, number, moment) for turn in conversation[name])
        yield Batch(FRIENDS, name, turns)
        number += 1


def _turn(turn: Mapping[str, str], session: int, moment: datetime) -> dict[str, Any]:
    text = f"{turn['speaker']}: {turn['text']}"
    if "blip_caption" in turn:
        text += f" [shares a photo of {turn['blip_caption'].removeprefix('a photo of ')}]"
    metadata = {"dia_id": turn["dia_id"], "speaker": turn["speaker"], "session": session}
    return {"text": text, "event_time": moment, "metadata": metadata}


def _question(entry: Mapping[str, Any]) -> Question:
    return Question(
        user_id=FRIENDS,
        text=entry["question"],
        answer=entry["answer"],
        evidence=tuple(entry["evidence"]),
        superseded=tuple(entry.get("superseded", ())),
    )


# ---------------------------------------------------------------- the book


def _chapters(book: str) -> Iterator[Batch]:
    for number, chapter in enumerate(book.split(_CHAPTER)[1:], start=1):
        heading, *paragraphs = (block.strip() for block in chapter.split("\n\n"))
        title = heading.splitlines()[-1]
        texts = [text for text in paragraphs if text and text != _BREAK]
        items = tuple(
            {
                "text": text,
                "metadata": {"paragraph": f"{number}.{place}", "chapter": number, "title": title},
            }
            for place, text in enumerate(texts, start=1)
        )
        yield Batch(READER, f"chapter_{number}", items)


def _about_alice(text: str, answer: str, chapters: list[Batch]) -> Question:
    places = [reference(item["metadata"]) for chapter in chapters for item in chapter.items if answer in item["text"]]
    return Question(READER, text, answer, tuple(places))
