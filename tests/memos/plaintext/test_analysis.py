"""From text to terms."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos.plaintext.analysis import STOP_WORDS, terms, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World!", ["hello", "world"]),
        ("Ann's cat's tail", ["ann", "cat", "tail"]),
        ("Ann’s cat", ["ann", "cat"]),
        ("don't can’t O'Brien's rock'n'roll", ["dont", "cant", "obrien", "rocknroll"]),
        ("the dogs' bowls", ["the", "dogs", "bowls"]),
        ("'quoted' ’tis", ["quoted", "tis"]),
        ("42 apples, 3.14 and v2.0", ["42", "apples", "3", "14", "and", "v2", "0"]),
        ("well-known e-mail", ["well", "known", "e", "mail"]),
        ("snake_case __init__", ["snake", "case", "init"]),
        ("ﬁne ｗｉｄｅ ①", ["fine", "wide", "1"]),  # noqa: RUF001 -- what NFKC is for
        ("Ärger CAFÉ cafe\u0301", ["ärger", "café", "café"]),
        ("猫", ["猫"]),
        ("東京都", ["東京", "京都"]),
        ("我喜欢猫 cats", ["我喜", "喜欢", "欢猫", "cats"]),
        ("iPhone手机15", ["iphone", "手机", "15"]),
        ("고양이", ["고양", "양이"]),
        ("カフェ", ["カフ", "フェ"]),
        ("кошка ходит", ["кошка", "ходит"]),
        ("🎉 ... ?!", []),
        ("", []),
        ("2026-05-08T10:00", ["2026", "05", "08t10", "00"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert list(words(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cats were running", ["cat", "run"]),
        ("adopted adopting adoption", ["adopt", "adopt", "adopt"]),
        ("What is it about?", []),
        ("I don't think you're right", ["think", "right"]),
        ("Ann's cat and Ann", ["ann", "cat", "ann"]),
    ],
)
def test_terms(text: str, expected: list[str]) -> None:
    assert terms(text) == expected


@pytest.mark.parametrize("contraction", ["don't", "I'm", "you’re", "it's", "wouldn't", "she'll", "they've"])
def test_contractions_are_stop_words(contraction: str) -> None:
    assert terms(contraction) == []


def test_stop_words_are_analysed_words() -> None:
    """Each can be met: it is what the analysis makes of it."""
    assert {word for word in STOP_WORDS if list(words(word)) != [word]} == set()


@given(st.text(max_size=60))
def test_terms_hold_no_white_space(text: str) -> None:
    """They are stored joined by spaces."""
    found = terms(text)
    assert " ".join(found).split() == found


@given(st.text(max_size=60))
def test_words_do_not_depend_on_case_of_ascii(text: str) -> None:
    plain = text.encode("ascii", "ignore").decode()
    assert list(words(plain.upper())) == list(words(plain.lower()))


def test_threads_get_the_same_terms() -> None:
    text = "The quick brown foxes were jumping over lazily sleeping dogs " * 20
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: terms(text), range(64)))
    assert all(result == terms(text) for result in results)
