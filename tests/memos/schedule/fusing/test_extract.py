"""Extracts lose nothing that recall could look for, whatever the texts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos.plaintext.analysis import terms
from memos.schedule.fusing.extract import details, extract, sentences

if TYPE_CHECKING:
    from memos.embedding.base import Embedder

WORDS = ("boat", "sail", "Freya", "Tromsø", "crimson", "not", "12", "May", "harbour", "rusty", "never", "Halvorsen")
TEXTS = st.lists(
    st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=8), min_size=1, max_size=3).map(
        lambda text: ". ".join(" ".join(words).capitalize() for words in text) + "."
    ),
    min_size=1,
    max_size=5,
)


@given(TEXTS)
def test_details_and_most_words_stay(embedder: Embedder, texts: list[str]) -> None:
    kept = " ".join(extract(texts, None, embedder.embed))
    assert details(" ".join(texts)) - set(terms(kept)) <= details(kept)
    for sentence in (one for text in texts for one in sentences(text)):
        stems = set(terms(sentence))
        assert any(len(stems - set(terms(one))) <= 0.3 * len(stems) for one in sentences(kept))


@given(TEXTS)
def test_every_sentence_is_one_of_a_source_in_its_place(embedder: Embedder, texts: list[str]) -> None:
    for text, left in zip(texts, extract(texts, None, embedder.embed), strict=True):
        said = iter(sentences(text))
        assert all(one in said for one in sentences(left))


@given(TEXTS)
def test_once_extracted_there_is_nothing_to_leave_out_of_equal_texts(embedder: Embedder, texts: list[str]) -> None:
    once = extract(texts, None, embedder.embed)
    assert extract(texts, None, embedder.embed) == once
    doubled = extract([*texts, *texts], None, embedder.embed)
    assert sorted(sentences(" ".join(doubled))) == sorted(set(sentences(" ".join(doubled))))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The call is on 5 May.", "The call is on 6 May."),
        ("I eat fish.", "I do not eat fish."),
        ("Paris is where we met at last.", "Rome is where we met at last."),
        ("Do we meet at the old harbour?", "We do meet at the old harbour."),
        ("彼は猫を飼っている。", "彼は犬を飼っている。"),
    ],
)
def test_what_differs_in_what_matters_stays(embedder: Embedder, one: str, other: str) -> None:
    assert extract([one, other], None, embedder.embed) == [one, other]


def test_shorter_sentence_that_says_less_goes(embedder: Embedder) -> None:
    longer = "The boat in the harbour is called Freya and has a crimson sail"
    assert extract(["The boat is called Freya.", f"{longer}."], None, embedder.embed) == ["", f"{longer}."]
    assert extract([f"{longer}.", f"{longer}!"], None, embedder.embed).count("") == 1


def test_code_is_kept_whole() -> None:
    text = "Run this:\n```\nmake. test\n```"
    assert sentences(text) == [text]
    assert re.split(r"\n", text)[0] in sentences(text)[0]
