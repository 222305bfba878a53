"""What a question is taken to ask for."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from memos.cube import Scope
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.plaintext.analysis import words
from memos.plaintext.question import LEAST_TURNS, named_speakers, understand
from memos.store import namespaces
from memos.store.view import NamespaceView

TURNS = {"Ann": 5, "Bob Miller": 3, "user": 9, "Note": LEAST_TURNS - 1, "O'Neil": 4, "猫": 3}


@pytest.mark.parametrize(
    ("question", "named"),
    [
        ("What does Ann like?", ["Ann"]),
        ("what is ann's hobby?", ["Ann"]),
        ("Did Bob call?", ["Bob Miller"]),
        ("Did Miller call?", []),
        ("Do Ann and Bob agree?", ["Ann", "Bob Miller"]),
        ("What did the user say?", []),
        ("Is there a note?", []),
        ("Is O'Neil here?", ["O'Neil"]),
        ("Anna likes annals", []),
    ],
)
def test_named_speakers(question: str, named: list[str]) -> None:
    assert named_speakers(words(question), TURNS) == named


@pytest.fixture
def view(engine: MemoryOS, embedder: Embedder) -> NamespaceView:
    """Turns of two speakers in 2022 and 2023."""
    items = [
        {"text": f"{name}: turn {number}", "event_time": f"{2022 + number % 2}-05-08"}
        for name in ("Ann", "Bob")
        for number in range(3)
    ]
    engine.store_many(Scope(), items)
    with engine.database.read() as connection:
        namespace = namespaces.find(connection, Scope())
        assert namespace is not None
        made = NamespaceView(namespace.id, 1, embedder.dimension)
        made.catch_up(connection, namespace)
    return made


NOW = datetime(2023, 6, 1, tzinfo=UTC)


def test_name_leaves_the_terms(view: NamespaceView) -> None:
    question = understand("What is Ann's favourite hobby, Ann?", view, NOW)
    assert question.speaker == "Ann"
    assert question.terms == ("favourit", "hobbi")
    assert "ann" not in question.bare.lower()


def test_two_names_are_no_speaker(view: NamespaceView) -> None:
    assert understand("Do Ann and Bob like hobbies?", view, NOW).speaker is None


def test_only_a_name_stays_a_question(view: NamespaceView) -> None:
    question = understand("Ann", view, NOW)
    assert question.bare == question.text == "Ann"


def test_terms_are_distinct(view: NamespaceView) -> None:
    assert understand("cats and cats and a cat", view, NOW).terms == ("cat",)


def test_months_mean_the_years_there_are(view: NamespaceView) -> None:
    periods = understand("What happened in May?", view, NOW).periods
    assert len(periods) == 2
