"""Text as it comes: whole characters, and stop strings wherever tokens end."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos.runtime.loading import LoadedModel
from memos.runtime.text import Detokenizer, StopStrings, TextStream

TEXTS = ("Hello there, Ann.", "Grüße 🐈‍⬛ naïve 漢字 καλημέρα", "\n\n  indented\ttabs ", "👩‍👩‍👧‍👦🏳️‍🌈")


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_whole_characters(loaded: LoadedModel, text: str) -> None:
    detokenizer = Detokenizer(loaded.tokenizer)
    pieces = [detokenizer.push(token) for token in loaded.tokenizer.encode(text)]
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) + detokenizer.flush() == text


def test_character_that_is_never_finished_is_replaced(loaded: LoadedModel) -> None:
    tokens = loaded.tokenizer.encode("🐈")
    detokenizer = Detokenizer(loaded.tokenizer)
    assert [detokenizer.push(token) for token in tokens[:-1]] == [""] * (len(tokens) - 1)
    assert detokenizer.flush() == "\ufffd"


def test_special_tokens_are_not_text(loaded: LoadedModel) -> None:
    stream = TextStream(loaded.tokenizer, ())
    assert [stream.push(token) for token in (19556, 1, 28)] == ["Hello", "", ","]


@given(
    text=st.text("abc", max_size=30),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 30), max_size=8),
)
def test_any_split_of_a_text_stops_at_the_same_place(text: str, stops: list[str], cuts: list[int]) -> None:
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    stream, shown = StopStrings(stops), ""
    for start, end in itertools.pairwise(bounds):
        shown += stream.push(text[start:end])
        if stream.found:
            break
        assert text.startswith(shown)
    else:
        shown += stream.flush()
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(stop) for stop in stops)]
    assert stream.found == bool(ends)
    assert not any(stop in shown for stop in stops)
    assert text.startswith(shown)
    assert shown == text or ends
