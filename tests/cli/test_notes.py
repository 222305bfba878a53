"""Notes on the command line: links, their picture, rollback, refine."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Memos = Callable[..., Any]


@pytest.fixture
def linked(memos: Memos, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three memories with their notes written."""
    monkeypatch.delenv("MEMOS_NOTES")
    texts = ("I live in Rome with Ann.", "I moved from Rome to Oslo with Ann.", "<b>Ann</b> & Tom play the banjo")
    ids = [memos("store", text, "--json").data["id"] for text in texts]
    assert memos("refine").code == 0
    return ids


def test_links_of_a_memory(memos: Memos, linked: list[str]) -> None:
    (link,) = [one for one in memos("links", linked[0], "--json").data if one["type"] == "contradicts"]
    assert (link["source_id"], link["target_id"], link["reversed"]) == (linked[0], linked[1], True)
    assert "contradicts" in memos("links", linked[0]).out


@pytest.mark.parametrize("suffix", [".svg", ".html"])
def test_picture_of_all_notes(memos: Memos, linked: list[str], tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"notes{suffix}"
    answer = memos("links", "--graph", str(file), "--json")
    assert (answer.data["notes"], answer.data["links"] >= 1) == (3, True)
    drawn = file.read_text(encoding="utf-8")
    svg = drawn if suffix == ".svg" else drawn[drawn.index("<svg") : drawn.index("</svg>") + 6]
    root = ElementTree.fromstring(svg)  # noqa: S314 (ours, and well formed whatever memories say)
    assert len([one for one in root.iter() if one.tag.endswith("circle")]) == 3
    assert "<b>" not in drawn


def test_picture_of_nothing(memos: Memos, tmp_path: Path) -> None:
    assert memos("links", "--graph", str(tmp_path / "n.svg")).code == 0
    assert "0 notes" in (tmp_path / "n.svg").read_text()


@pytest.mark.parametrize("arguments", [[], ["--graph", "notes.png"], ["x", "--graph", "notes.svg"]])
def test_links_needs_one_thing_to_show(memos: Memos, arguments: list[str]) -> None:
    assert memos("links", *arguments).code == 2


def test_rollback(memos: Memos, linked: list[str]) -> None:
    assert [one["version"] for one in memos("history", linked[0], "--json").data] == [1, 2]
    assert "version 3" in memos("rollback", linked[0], "1").out
    assert memos("get", linked[0], "--json").data["time"]["valid_to"] is None
    assert memos("rollback", linked[0], "9").code == 2


def test_refine_tells_what_came_of_it(memos: Memos, linked: list[str]) -> None:
    assert memos("refine", linked[2], "--json").data["result"]["notes"] == 1
    assert memos("refine", "no-such-id").code == 3


def test_refine_says_that_notes_are_off(memos: Memos) -> None:
    answer = memos("refine", "--json")
    assert answer.code == 2
    assert "MEMOS_NOTES" in answer.problem["detail"]


def test_note_is_shown_with_its_memory(memos: Memos, linked: list[str]) -> None:
    shown = memos("get", linked[0]).out
    for word in ("keywords", "tags", "context", "held until", "note by"):
        assert word in shown
