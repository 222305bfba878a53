"""JSON Lines, JSON documents, LoCoMo and prose."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from memos.cube import MemCube, Scope
from memos.engine import MemoryOS
from memos.errors import ImportRefused
from memos.transfer.formats.locomo import session_time
from memos.transfer.report import ImportReport

Imported = Callable[[str, str | bytes], tuple[ImportReport, list[MemCube]]]
Write = Callable[[str, str | bytes], Path]


# --------------------------------------------------------------------------------------------------
# JSON Lines


def test_line_has_fields_of_store(imported: Imported) -> None:
    line = {
        "text": "Ann has a cat",
        "metadata": {"topic": "pets"},
        "event_time": "2025-01-09T19:42:00",
        "expires_at": "2999-01-01",
        "agent_id": "a",
        "run_id": "r",
        "infer": False,
        "source": "diary",
        "mood": "good",
    }
    report, [cube] = imported("x.jsonl", json.dumps(line))
    assert (report.format, report.imported, report.skipped) == ("jsonl", 1, 0)
    assert (cube.text, cube.metadata) == ("Ann has a cat", {"topic": "pets", "mood": "good"})
    assert cube.time.event_time == datetime(2025, 1, 9, 19, 42, tzinfo=UTC)
    assert (cube.scope.agent_id, cube.scope.run_id) == ("a", "r")
    assert (cube.provenance.infer, cube.provenance.source) == (False, "diary")


def test_message_is_memory(imported: Imported) -> None:
    parts = [{"type": "text", "text": "see"}, {"type": "image_url"}, {"type": "text", "text": "it"}]
    lines = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": parts}]
    _, cubes = imported("chat.jsonl", "\n".join(map(json.dumps, lines)))
    assert [(cube.text, cube.provenance.author, cube.scope.run_id) for cube in cubes] == [
        ("hi", "user", "chat"),
        ("see\nit", "assistant", "chat"),
    ]


def test_conversation_per_line(imported: Imported) -> None:
    line = {"messages": [{"role": "user", "content": "hi"}, 7]}
    report, cubes = imported("chat.jsonl", f"{json.dumps(line)}\n{json.dumps(line)}\n")
    assert [cube.scope.run_id for cube in cubes] == ["chat/1", "chat/2"]
    assert [each.line for each in report.rejected] == [1, 2]


BAD_LINES: dict[str, str | bytes] = {
    "not JSON": "nope",
    "not JSON ": '{"text": "cut',
    "object": "[1]",
    "string": '{"text": 5}',
    "NoneType": '{"note": "no text"}',
    "empty": '{"text": " "}',
    "NUL": '{"text": "a\\u0000b"}',
    "surrogate": '{"text": "\\ud800"}',
    "event_time": '{"text": "a", "event_time": "yesterday"}',
    "past": '{"text": "a", "expires_at": "2001-01-01"}',
    "infer": '{"text": "a", "infer": "no"}',
    "run_id": '{"text": "a", "run_id": 5}',
    "metadata": '{"text": "a", "metadata": []}',
    "metadata ": '{"text": "a", "metadata": [], "x": 1}',
    "beside": '{"text": "a", "metadata": {"x": 1}, "x": 2}',
    "JSON": '{"text": "a", "x": NaN}',
    "UTF-8": b'{"text": "caf\xe9"}',
    "can be read": '{"text": "a", "n": ' + "9" * 5_000 + "}",
}


@pytest.mark.parametrize("reason", BAD_LINES)
def test_bad_line_is_left_out(imported: Imported, reason: str) -> None:
    line = BAD_LINES[reason]
    bad = line if isinstance(line, bytes) else line.encode()
    report, cubes = imported("x.jsonl", b'{"text": "one"}\n\n' + bad + b'\n{"text": "two"}\r\n')
    assert [cube.text for cube in cubes] == ["one", "two"]
    assert [each.line for each in report.rejected] == [3]
    assert reason.strip() in report.rejected[0].reason


@pytest.mark.parametrize("reason", BAD_LINES)
def test_strict_refuses_at_bad_line(engine: MemoryOS, scope: Scope, write: Write, reason: str) -> None:
    line = BAD_LINES[reason]
    bad = line if isinstance(line, bytes) else line.encode()
    path = write("x.jsonl", b'{"text": "one"}\n' + bad + b"\nworse\n")
    with pytest.raises(ImportRefused) as refusal:
        engine.import_(scope, path, strict=True)
    assert refusal.value.extra["line"] == 2
    assert engine.stats(scope).memories == 0


def test_caller_names_run(engine: MemoryOS, write: Write) -> None:
    path = write("x.jsonl", '{"role": "user", "content": "a"}\n{"text": "b", "run_id": "own"}\n')
    engine.import_(Scope(user_id="ann", run_id="mine"), path)
    assert [cube.scope.run_id for cube in engine.list(Scope(user_id="ann"))] == ["mine", "own"]


def test_line_separators_inside_strings_stay(imported: Imported) -> None:
    _, [cube] = imported("x.jsonl", '{"text": "a\u2028b\x85c"}')
    assert cube.text == "a\u2028b\x85c"


def test_array_is_read(imported: Imported) -> None:
    report, cubes = imported("x.json", '[\n {"text": "a"},\n\n 5, {"text":\n "b"}\n]')
    assert (report.format, [cube.text for cube in cubes]) == ("json", ["a", "b"])
    assert [each.line for each in report.rejected] == [4]


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("x.json", '{\n "text": "a",\n oops\n}', 3),
        ("x.txt", '[\n{"text": "a"},\n{"text": \n', 4),
        ("x.json", b'[\n{"text": "caf\xe9"}]', 2),
    ],
)
def test_broken_document_is_refused(
    engine: MemoryOS, scope: Scope, write: Write, name: str, content: str | bytes, line: int
) -> None:
    with pytest.raises(ImportRefused, match=f"line {line}") as refusal:
        engine.import_(scope, write(name, content))
    assert refusal.value.extra["line"] == line


# --------------------------------------------------------------------------------------------------
# LoCoMo


def sample(**change: Any) -> dict[str, Any]:
    turns = [
        {"speaker": "Maya", "dia_id": "D1:1", "text": "hi"},
        {"speaker": "Tom", "dia_id": "D1:2", "text": "look", "blip_caption": "a photo of a cat"},
    ]
    conversation = {
        "speaker_a": "Maya",
        "speaker_b": "Tom",
        "session_10": [{"speaker": "Tom", "dia_id": "D10:1", "text": "late"}],
        "session_10_date_time": "12:05 am on 1 March, 2025",
        "session_2": turns,
        "session_2_date_time": "7:42 pm on 9 January, 2025",
        "session_11_date_time": "a stub without a session",
    }
    qa = [{"question": "?", "adversarial_answer": "never"}]
    return {"sample_id": "s", "qa": qa, "conversation": {**conversation, **change}}


def test_turns_are_memories(imported: Imported) -> None:
    report, cubes = imported("x.json", json.dumps(sample(), indent=1))
    assert (report.format, report.rejected) == ("locomo", ())
    assert [(cube.text, cube.scope.run_id) for cube in cubes] == [
        ("Maya: hi", "s/session_2"),
        ("Tom: look [shares a photo of a cat]", "s/session_2"),
        ("Tom: late", "s/session_10"),
    ]
    assert cubes[1].metadata == {"dia_id": "D1:2", "speaker": "Tom", "session": 2}
    assert [cube.time.event_time for cube in cubes[1:]] == [
        datetime(2025, 1, 9, 19, 42, tzinfo=UTC),
        datetime(2025, 3, 1, 0, 5, tzinfo=UTC),
    ]


@pytest.mark.parametrize("indent", [None, 2])
def test_list_of_conversations(imported: Imported, indent: int | None) -> None:
    second = {"conversation": {"session_1": [{"speaker": "Ann", "text": "one"}]}}
    report, cubes = imported("x.json", json.dumps([sample(), 5, second], indent=indent))
    assert report.format == "locomo"
    assert [cube.scope.run_id for cube in cubes][-2:] == ["s/session_10", "x-3/session_1"]
    assert len(report.rejected) == 1


def test_bad_turns_are_named(imported: Imported) -> None:
    turns = [{"speaker": "Ann", "text": 5}, {"text": "who?"}, "x", {"speaker": "Ann", "text": " "}]
    good = {"speaker": "Ann", "text": "ok"}
    value = {"session_1": [*turns, good], "session_2": "none", "session_3": [good]}
    text = json.dumps(sample(**value, session_3_date_time="some day"), indent=1)
    report, cubes = imported("x.json", text)
    assert [cube.text for cube in cubes] == ["Ann: ok", "Tom: late"]
    lines = text.splitlines()
    assert [lines[each.line - 1].strip() for each in report.rejected] == [
        "{",
        "{",
        '"x",',
        "{",
        '"session_2": "none",',
        '"session_3": [',
    ]


@pytest.mark.parametrize("wrong", ["25:00 pm on 9 January, 2025", "7:42 pm on 30 February, 2025", "Monday"])
def test_session_time_refuses(wrong: str) -> None:
    assert session_time(wrong) is None


def test_bundled_conversation(engine: MemoryOS, scope: Scope, repository: Path) -> None:
    report = engine.import_(scope, repository / "memos/demo/conversation.json", strict=True)
    assert report.imported >= 150
    assert len({cube.scope.run_id for cube in engine.list(scope, limit=1_000)}) >= 10


# --------------------------------------------------------------------------------------------------
# Prose


def test_paragraphs_are_memories(imported: Imported) -> None:
    report, cubes = imported("my book.txt", "One\nstill: one.\n\n\n* * *\n\nTwo.\n")
    assert (report.format, [cube.text for cube in cubes]) == ("prose", ["One\nstill: one.", "Two."])
    assert [(cube.scope.run_id, cube.metadata) for cube in cubes] == [
        ("my book", {"paragraph": 1}),
        ("my book", {"paragraph": 2}),
    ]


def test_bundled_book(engine: MemoryOS, scope: Scope, repository: Path) -> None:
    report = engine.import_(scope, repository / "memos/demo/alice.txt", strict=True)
    assert (report.format, report.imported > 50) == ("prose", True)


def test_paragraph_over_limit_is_named(imported: Imported) -> None:
    report, cubes = imported("x.txt", "short\n\n\n" + "long " * 300_000)
    assert ([cube.text for cube in cubes], [each.line for each in report.rejected]) == (
        ["short"],
        [4],
    )
