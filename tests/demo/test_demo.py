"""The demo's material, and the demo itself."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from memos.demo import run, show
from memos.demo.forgetting import fragments, traces
from memos.demo.material import FRIENDS, READER, load, reference, session_time
from memos.demo.run import run_demo
from memos.demo.steps import excerpt, score
from memos_sdk.errors import InvalidInput

#: Training that ends at once: what it comes to is tested elsewhere (tests/memos/parametric/distil).
QUICK = {"epochs": 1, "least_steps": 1}


class WordHashes:
    """An embedder that needs no model: each word adds a direction of its own."""

    identity = "word-hashes"
    dimension = 64

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.full((len(texts), self.dimension), 1e-3, np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                vectors[row, hashlib.sha256(word.encode()).digest()[0] % self.dimension] += 1
        normed: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return normed

    def count_tokens(self, text: str) -> int:
        return len(text.split())


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder temporary folders are made in, all but the cache that torch makes when it is first imported."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "torch"))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def test_material_conversation_is_long_and_in_order() -> None:
    sessions = [batch for batch in load()[0] if batch.user_id == FRIENDS]
    turns = [item for session in sessions for item in session.items]
    places = [reference(turn["metadata"]) for turn in turns]
    times = [turn["event_time"] for turn in turns]
    assert len(turns) >= 150
    assert len(set(places)) == len(places)
    assert all(
        reference(turn["metadata"]) == f"D{number}:{place}"
        for number, session in enumerate(sessions, start=1)
        for place, turn in enumerate(session.items, start=1)
    )
    assert times == sorted(times)
    assert (times[-1] - times[0]).days > 100
    assert {turn["metadata"]["speaker"] for turn in turns} == {"Maya", "Tom"}


def test_material_evidence_exists() -> None:
    batches, questions = load()
    places = {
        user: {reference(item["metadata"]) for b in batches if b.user_id == user for item in b.items}
        for user in (FRIENDS, READER)
    }
    for question in questions:
        named = {*question.evidence, *question.superseded}
        assert question.evidence, question.text
        assert named <= places[question.user_id], question.text
        assert not set(question.evidence) & set(question.superseded), question.text
    assert len(questions) == len({question.text for question in questions}) == 20
    assert sum(bool(question.superseded) for question in questions) >= 5


def test_material_book_is_three_chapters_of_prose() -> None:
    chapters = [batch for batch in load()[0] if batch.user_id == READER]
    assert [chapter.items[0]["metadata"]["title"] for chapter in chapters] == [
        "Down the Rabbit-Hole",
        "The Pool of Tears",
        "A Caucus-Race and a Long Tale",
    ]
    texts = [item["text"] for chapter in chapters for item in chapter.items]
    assert not any(text.startswith(("CHAPTER", "* * *")) for text in texts)


def test_material_photos_are_part_of_the_text() -> None:
    texts = [item["text"] for batch in load()[0] for item in batch.items]
    photos = [text for text in texts if "[shares" in text]
    assert len(photos) >= 5
    assert all(
        text.endswith("]") and text.count("[shares a photo of ") == 1 and "photo of a photo" not in text
        for text in photos
    )


def test_session_time_is_utc() -> None:
    assert session_time("7:42 pm on 9 January, 2025") == datetime(2025, 1, 9, 19, 42, tzinfo=UTC)


def test_fragments_cover_a_text_but_not_what_others_say() -> None:
    text = "The first thirty characters... and something nobody else has said, ever."
    pieces = fragments(text, ["The first thirty characters... are shared"])
    assert pieces
    assert all(piece.decode() in text for piece in pieces)
    assert not any(b"thirty characters" in piece for piece in pieces)
    assert fragments("short", []) == [b"short"]


def test_traces_names_files_that_hold_a_piece(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "page").write_bytes(b"\0\0secret one\0secret two")
    (tmp_path / "clean").write_bytes(b"nothing")
    assert traces(tmp_path, [b"secret one", b"secret two", b"other"]) == {"inner/page": 2}


def test_excerpt_begins_at_the_sentence_asked_for() -> None:
    text = "It rained. I sold the banjo for £260. Then I went home."
    assert excerpt(text, "What did the banjo cost?") == "… I sold the banjo for £260. Then I went home."
    assert excerpt(text, "Unrelated?") == text


def test_score_counts_each_question_once() -> None:
    answers: list[dict[str, Any]] = [
        {"evidence": {"a": 1, "b": None}, "superseded": {"c": 2}, "newest_first": True},
        {"evidence": {"a": 4}, "superseded": {"c": 2}, "newest_first": False},
        {"evidence": {"a": None}, "superseded": {}, "newest_first": None},
    ]
    assert score(answers) == {
        "questions": 3,
        "found": 2,
        "evidence": 4,
        "evidence_found": 2,
        "changed": 2,
        "newest_first": 1,
    }


def test_demo_refuses_a_shared_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMOS_DATABASE_URL", "postgresql+psycopg://nowhere/none")
    with pytest.raises(InvalidInput, match="MEMOS_DATABASE_URL"):
        run_demo(Console(file=io.StringIO()), embedder=WordHashes())


def test_demo_leaves_nothing_behind_on_error(scratch: Path) -> None:
    class Failing(WordHashes):
        def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
            if any("Satsuma" in text for text in texts):
                raise InterruptedError
            return super().embed(texts)

    with pytest.raises(InterruptedError):
        run_demo(Console(file=io.StringIO()), embedder=Failing())
    assert not list(scratch.iterdir())


@pytest.fixture(params=["brief", pytest.param("whole", marks=pytest.mark.soak)])
def length(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo as users see it; and one with a chapter of the book, and a model of few layers."""
    if request.param == "whole":
        return
    monkeypatch.setenv("MEMOS_MODEL", str(request.getfixturevalue("shallow_model")))
    batches, questions = load()
    told = [batch for batch in batches if batch.run_id not in ("chapter_2", "chapter_3")]
    places = {(batch.user_id, reference(item["metadata"])) for batch in told for item in batch.items}
    kept = [one for one in questions if {(one.user_id, place) for place in one.evidence} <= places]
    monkeypatch.setattr(run, "load", lambda: (told, kept))


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("length")
def test_demo(scratch: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEMOS_NOTES")
    monkeypatch.delenv("MEMOS_COMPOSE")
    printed = io.StringIO()
    report = run_demo(Console(file=printed, width=40), json=True, training=QUICK)
    assert json.loads(printed.getvalue()) == report
    assert capsys.readouterr() == ("", "")
    assert not list(scratch.iterdir())
    found, asked = report["score"]["found"], report["score"]["questions"]
    assert asked >= 17
    assert found >= 0.8 * asked
    assert report["notes"]["counts"]["links"] > report["notes"]["counts"]["notes"]
    assert report["score"]["newest_first"] >= 0.5 * report["score"]["changed"]
    assert report["context"]["tokens"] <= report["context"]["max_tokens"]
    assert report["tiers"]["identical"]
    assert len(report["composed"]["composed"]["bundles"]) > 1
    assert report["forgotten"]["rank_before"]
    assert report["forgotten"]["files_before"]
    assert not any(report["forgotten"]["after"].values())
    assert report["reopened"]["same"]
    assert not any(report["reopened"]["forgotten"].values())
    assert report["reopened"]["memories"] == report["notes"]["counts"]["notes"] - 1
    shown = io.StringIO()
    display(Console(file=shown, width=120), report)
    assert f"evidence found in the top 10: {found} of {asked} questions" in shown.getvalue()


def display(screen: Console, report: dict[str, Any]) -> None:
    """Show a finished report as the demo shows it on its way."""
    parts: dict[Callable[[Console, Any], None], str] = {
        show.stored: "stored",
        show.notes: "notes",
        show.answers: "answers",
        show.explained: "explained",
        show.narrowed: "narrowed",
        show.context: "context",
        show.tiers: "tiers",
        show.composed: "composed",
        show.parametric: "parametric",
        show.moves: "moves",
        show.forgotten: "forgotten",
        show.reopened: "reopened",
        show.spent: "time",
        show.summary: "score",
    }
    for part, name in parts.items():
        part(screen, report[name])
