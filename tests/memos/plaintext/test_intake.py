"""The gate before the store: what a caller's item becomes (tests/sdk/test_bad_input.py has what is refused)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos.config import Settings
from memos.cube import Scope
from memos.errors import InvalidInput, InvalidText
from memos.plaintext.intake import (
    MAX_METADATA_DEPTH,
    check_memory,
    check_metadata,
    check_text,
    speaker_of,
)

SETTINGS = Settings()
LIMIT = SETTINGS.max_metadata_bytes


def test_plain_item() -> None:
    made = check_memory({"text": "x"}, Scope(agent_id="a", run_id="r"), SETTINGS)
    assert made.model_dump() == {
        "text": "x",
        "metadata": {},
        "event_time": None,
        "expires_at": None,
        "agent_id": "a",
        "run_id": "r",
        "infer": True,
        "source": "api",
    }


def test_item_overrides_scope() -> None:
    item = {
        "text": "x",
        "metadata": {"a": (1, 2)},
        "event_time": "2026-05-08",
        "expires_at": datetime(2999, 1, 1),  # noqa: DTZ001
        "agent_id": "b",
        "run_id": "s",
        "infer": False,
        "source": "chat",
    }
    made = check_memory(item, Scope(agent_id="a", run_id="r"), SETTINGS)
    assert (made.agent_id, made.run_id, made.infer, made.source) == ("b", "s", False, "chat")
    assert made.metadata == {"a": [1, 2]}
    assert made.event_time == datetime(2026, 5, 8, tzinfo=UTC)
    assert made.expires_at == datetime(2999, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(("text", "limit"), [("abc", 3), ("é", 2), ("🎉", 4)])
def test_text_limit_counts_bytes(text: str, limit: int) -> None:
    assert check_text(text, limit) == text
    with pytest.raises(InvalidText, match=f"{limit} bytes, the limit is {limit - 1}"):
        check_text(text, limit - 1)


def test_text_names_the_offset() -> None:
    with pytest.raises(InvalidText, match="offset 3"):
        check_text("abc\0", 100)
    with pytest.raises(InvalidText, match="lone surrogate at offset 1"):
        check_text("a\udfff", 100)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_metadata_is_kept_or_refused(metadata: dict[str, Any]) -> None:
    """Kept exactly, unless a string holds what cannot be stored; backslashes before ``u0000`` are harmless."""
    strings = "".join(all_strings(metadata))
    storable = "\0" not in strings and not any("\ud800" <= one <= "\udfff" for one in strings)
    if storable:
        assert check_metadata(metadata, LIMIT) == metadata
    else:
        with pytest.raises(InvalidText):
            check_metadata(metadata, LIMIT)


def all_strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for item in value for text in all_strings(item)]
    if isinstance(value, dict):
        return [text for key, item in value.items() for text in [key, *all_strings(item)]]
    return []


@pytest.mark.parametrize("text", ["\\u0000", "\\\\u0000", "a\\u0000b", "\\\\\\u0000"])
def test_escaped_nul_is_text(text: str) -> None:
    assert check_metadata({"x": text}, LIMIT) == {"x": text}


@pytest.mark.parametrize("text", ["\0", "\\\0", "\\\\\0", "a\0u0000"])
def test_nul_after_backslashes(text: str) -> None:
    with pytest.raises(InvalidText, match="NUL"):
        check_metadata({"x": text}, LIMIT)


def test_metadata_limit_counts_bytes() -> None:
    assert check_metadata({"x": "é"}, len('{"x": "é"}'.encode()))
    with pytest.raises(InvalidInput, match="11 bytes as JSON, the limit is 10"):
        check_metadata({"x": "é"}, 10)


def test_metadata_depth() -> None:
    value: Any = []
    for _ in range(MAX_METADATA_DEPTH - 2):
        value = [value]
    assert check_metadata({"x": value}, LIMIT) == {"x": value}
    with pytest.raises(InvalidInput, match="nested deeper"):
        check_metadata({"x": [value]}, LIMIT)


@pytest.mark.parametrize("empty", [None, {}])
def test_no_metadata(empty: dict[str, Any] | None) -> None:
    assert check_metadata(empty, LIMIT) == {}


@pytest.mark.parametrize(
    ("text", "metadata", "speaker"),
    [
        ("Ann: I adopted a cat", {}, "Ann"),
        ("  Ann Smith-O'Neil : hello", {}, "Ann Smith-O'Neil"),
        ("Ann adopted a cat", {}, None),
        ("http://example.com: a page", {}, None),
        ("10:30 is the time", {}, None),
        ("Ann:", {}, None),
        ("x" * 50 + ": hello", {}, None),
        ("Ann: hello", {"speaker": "Bob"}, "Bob"),
        ("hello", {"role": " user "}, "user"),
        ("hello", {"role": "user", "speaker": "Bob"}, "Bob"),
        ("Ann: hello", {"speaker": ""}, "Ann"),
        ("Ann: hello", {"speaker": 5}, "Ann"),
        ("hello", {"speaker": "x" * 300}, "x" * 256),
        ("Łucja: cześć", {}, "Łucja"),
    ],
)
def test_speaker(text: str, metadata: dict[str, Any], speaker: str | None) -> None:
    assert speaker_of(text, metadata) == speaker
