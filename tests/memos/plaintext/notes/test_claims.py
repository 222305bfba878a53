"""Which texts take back what others said, and which only sound alike."""

from __future__ import annotations

import pytest

from memos.plaintext.notes.claims import DENIAL, QUANTITY, STATE, Clash, clash, said

CLASHING = [
    ("I moved from Rome to Oslo.", "I live in Rome."),
    ("I live in Oslo now.", "I live in Rome."),
    ("Ann's home town is Porto.", "Ann's home town is Lisbon."),
    ("My favourite colour is green now.", "My favourite colour is blue."),
    ("I've joined Acme Robotics.", "I work for Nightjar Ltd."),
    ("The captain of the Kestrel is Ingrid Vale.", "The captain of the Kestrel is Tom Reed."),
    ("I am 34 years old.", "I am 33 years old."),
    ("My team has grown to 7 engineers.", "My team has 5 engineers."),
    ("The launch meeting with Kit was moved to June 9.", "The launch meeting with Kit is on June 4."),
    ("I have never ridden a horse on a beach.", "Last summer I was riding a horse on the beach."),
]
AGREEING = [
    ("I like cats.", "I like dogs."),
    ("I live in Oslo.", "I live in Oslo, Norway."),
    ("I live in Oslo.", "Where do you live?"),
    ("My sister lives in Oslo.", "I live in Rome."),
    ("Ann's home town is Lisbon.", "Ben's home town is Porto."),
    ("We baked 12 muffins.", "I ran 5 kilometres."),
    ("I have never been to Japan.", "I have never been to Peru."),
    ("The dentist is on June 9.", "The launch meeting with Kit is on June 4."),
    ("I have two cats and a dog.", "I have two cats."),
]


@pytest.mark.parametrize(("new", "old"), CLASHING)
def test_contradictions(new: str, old: str) -> None:
    assert clash(said(new, "user"), said(old, "user")) is not None


@pytest.mark.parametrize(("new", "old"), AGREEING)
def test_no_contradictions(new: str, old: str) -> None:
    assert clash(said(new, "user"), said(old, "user")) is None


def test_claims_are_the_authors_own() -> None:
    assert clash(said("I live in Oslo.", "Ann"), said("I live in Rome.", "Ben")) is None
    assert clash(said("Ann lives in Oslo.", "Ben"), said("I live in Rome.", "Ann")) == Clash(
        STATE, "ann's home: rome -> oslo"
    )


@pytest.mark.parametrize(
    ("new", "old", "kind"),
    [
        ("I live in Oslo now.", "I live in Rome.", STATE),
        ("My team has grown to 7 engineers.", "My team has 5 engineers.", QUANTITY),
        ("I have never ridden a horse on a beach.", "Last summer I was riding a horse on the beach.", DENIAL),
    ],
)
def test_a_clash_tells_its_kind(new: str, old: str, kind: str) -> None:
    found = clash(said(new, None), said(old, None))
    assert found is not None
    assert found.kind == kind


@pytest.mark.parametrize("text", ["", "?", "1" * 400, "the of is " * 300, "I " * 2000, "“”’'\n;" * 100])
def test_any_text_can_be_read(text: str) -> None:
    assert clash(said(text, None), said(text, None)) is None
