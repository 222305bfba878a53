"""What the rules find in a text: names, keywords, days, secrets, forms."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from memos.plaintext.notes.entities import entities
from memos.plaintext.notes.keywords import ALIKE, LONGEST, RANKED, keywords, ranked
from memos.plaintext.notes.language import language
from memos.plaintext.notes.offline import construct, form_of, title, without_speaker
from memos.plaintext.notes.sensitivity import sensitivity

MONDAY = datetime(2026, 5, 4, 15, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The captain of the survey ship Kestrel is Ingrid Vale.", ("Kestrel", "Ingrid Vale")),
        ("She works at the Bank of England in London.", ("Bank of England", "London")),
        ("Yesterday was fine. Nobody came.", ()),
        ("Milo sleeps. I like Milo.", ("Milo",)),
        ("Ann's home town is Lisbon.", ("Ann", "Lisbon")),
        ("See you on Friday in March, maybe in May.", ()),
        ('We read "The Old Mill" with @kit for #book-club', ("The Old Mill", "@kit", "#book-club")),
        ("I moved from Rome to Oslo", ("Rome", "Oslo")),
        ("```python\nclass Foo: pass\n``` is broken", ()),
    ],
)
def test_names(text: str, expected: tuple[str, ...]) -> None:
    found = set(entities(text))
    assert found >= set(expected)
    assert bool(found) == bool(expected)


def test_german_nouns_are_no_names() -> None:
    assert entities("Ich traf Ingrid Vale im Garten hinter dem Haus", None, "de") == ("Ingrid Vale",)


def test_author_is_no_name_in_the_own_text() -> None:
    assert entities("I told you, Melanie said. Melanie always does.", "Melanie") == ()


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("I moved yesterday", datetime(2026, 5, 3, tzinfo=UTC)),
        ("The call is on 2026-06-01.", datetime(2026, 6, 1, tzinfo=UTC)),
        ("We met on 7 May 2023.", datetime(2023, 5, 7, tzinfo=UTC)),
        ("We met on 7 May 2023 and on 8 May 2023.", None),
        ("We met in May 2023.", None),
        ("We met some time ago.", None),
    ],
)
def test_day_of_the_event(text: str, day: datetime | None) -> None:
    assert construct(text, None, MONDAY).event_time == day


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the weather is nice", "normal"),
        ("my password is hunter2", "secret"),
        ("API key: sk-proj-abcdefghijklmnop1234", "secret"),
        ("-----BEGIN RSA PRIVATE KEY-----", "secret"),
        ("write to ann@example.org", "personal"),
        ("call +49 170 1234567", "personal"),
        ("the card is 4242 4242 4242 4242", "personal"),
        ("order number 4242 4242 4242 4243", "normal"),
        ("I forgot my password again", "normal"),
    ],
)
def test_sensitivity(text: str, expected: str) -> None:
    assert sensitivity(text) == expected


def test_keywords_say_what_a_text_is_about() -> None:
    text = "The dashboard API response time has recently improved to 250 ms after caching tweaks by the backend team."
    found = keywords(text, "en", frozenset(), 8)
    assert "dashboard api" in found
    assert len(found) == len(set(found)) <= 8


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "The harbour master of Tolvik keeps bees on the roof of the Harbour House and sells honey on Fridays."),
        (
            "en",
            "NASA's rover found clay. The clay is old; older clay holds salts! Why salts matter: NASA asks, we answer.",
        ),
        ("de", "Die Brücke über den Fluss wurde im Winter gesperrt. Der Fluss führte zu viel Wasser für die Brücke."),
        ("en", "1 2 3"),
    ],
)
def test_keywords_are_those_of_the_library(language: str, text: str) -> None:
    import yake

    library = yake.KeywordExtractor(lan=language, n=LONGEST, dedupLim=ALIKE, top=RANKED)
    assert ranked(text, language) == [phrase for phrase, _ in library.extract_keywords(text)]


def test_no_word_of_a_text_stays_in_the_library() -> None:
    from yake.data.utils import get_tag

    ranked("The harbour master of Tolvik keeps bees.", "en")
    assert get_tag.cache_info().currsize == 0


def test_keywords_name_neither_speaker_nor_time() -> None:
    note = construct(
        "Melanie: Yesterday Melanie painted a lake at sunrise next to the old boat house", "Melanie", MONDAY
    )
    told = " ".join((*note.keywords, *note.tags))
    assert "melanie" not in told
    assert "yesterday" not in told
    assert "lake" in told


@pytest.mark.parametrize("text", ["?", "…", "ok", "42", "🙂", "x" * 5000, "ж" * 30, "\n\n-\n", "```\ncode\n```"])
def test_every_text_has_a_note(text: str) -> None:
    note = construct(text, None, MONDAY)
    assert 0 <= note.importance <= 1
    assert note.title
    assert len(note.title) <= 120


def test_the_same_text_has_the_same_note() -> None:
    text = "Caroline: I went to a support group in Oslo and it was so powerful, we also talked about adoption agencies."
    assert construct(text, "Caroline", MONDAY) == construct(text, "Caroline", MONDAY)


def test_languages() -> None:
    assert language("Ich wohne seit drei Jahren in Berlin und arbeite als Lehrer.") == "de"
    assert language("I have been living in Berlin for three years and work as a teacher.") == "en"
    assert language("ok") is None


def test_forms_and_importance() -> None:
    assert form_of("Which pet do you have?") == ("question",)
    assert "preference" in form_of("I prefer tea")
    small, great = (construct(text, None, MONDAY).importance for text in ("Hi!", "I am allergic to peanuts since 2019"))
    assert small < 0.2 < great


def test_title_is_the_first_sentence() -> None:
    assert title("I adopted a cat. It is called Milo.") == "I adopted a cat."
    long = title("word " * 100)
    assert len(long) <= 120
    assert long.endswith("…")


def test_speaker_is_no_part_of_what_was_said() -> None:
    assert without_speaker("Ann: I adopted a cat", "Ann") == "I adopted a cat"
    assert without_speaker("Ann: ", "Ann") == "Ann: "
    assert without_speaker(" plain ", None) == "plain"
