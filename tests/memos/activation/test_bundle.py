"""Bundles: one rendering whatever the order, clean seams, and sizes that are refused before work."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import permutations

import pytest

from memos.activation.bundle import BundleNote, bundle_of, check_size
from memos.errors import BundleRefused


def note(identifier: str, text: str, day: int, version: int = 1) -> BundleNote:
    return BundleNote(identifier, version, text, datetime(2025, 5, day, tzinfo=UTC))


NOTES = (note("b", "Ann moved to Oslo", 2), note("a", "Ann adopted a cat", 2), note("c", "Tom cooks", 1))


def test_rendering_is_the_same_whatever_the_order() -> None:
    bundles = {bundle_of(order) for order in permutations(NOTES)}
    (bundle,) = bundles
    assert bundle.text == "[2025-05-01] Tom cooks\n[2025-05-02] Ann adopted a cat\n[2025-05-02] Ann moved to Oslo\n"
    assert bundle.sources == (("c", 1), ("a", 1), ("b", 1))


def test_note_given_twice_stands_once() -> None:
    assert bundle_of([*NOTES, *NOTES]) == bundle_of(NOTES)


def test_digest_tells_versions_apart() -> None:
    newer = bundle_of([*NOTES[:2], note("c", "Tom cooks", 1, version=2)])
    assert newer.text == bundle_of(NOTES).text
    assert newer.digest != bundle_of(NOTES).digest


def test_lines_are_tokenised_alone() -> None:
    def encode(text: str) -> list[int]:
        return [len(text)]

    assert bundle_of(NOTES).tokens(encode) == [len(each.line) for each in bundle_of(NOTES).notes]


@pytest.mark.parametrize(("memory", "prompt", "word"), [(63, 70, "too few"), (900, 1001, "can read 1000")])
def test_size_is_refused(memory: int, prompt: int, word: str) -> None:
    with pytest.raises(BundleRefused, match=word):
        check_size(memory, prompt, smallest=64, largest=1000)


def test_size_at_the_limits_passes() -> None:
    check_size(64, 1000, smallest=64, largest=1000)
