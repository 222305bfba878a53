"""What is found to be known in notes, structured ones and plain sentences."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from memos.cube import Descriptor, MemCube
from memos.parametric.distil.facts import facts_of
from memos.parametric.distil.templates import NOBODYS

MakeNote = Callable[..., MemCube]


@pytest.mark.parametrize(
    ("text", "question", "answer"),
    [
        ("Ann's home town is Lisbon.", "What is Ann's home town?", "Lisbon"),
        ("My locker code is 4471.", "What is my locker code?", "4471"),
        ("The wifi password of the cabin is heron-52.", "What is the cabin's wifi password?", "heron-52"),
        ("The name of Tomo Reyes's dog is Biscuit.", "What is Tomo Reyes's dog's name?", "Biscuit"),
        ("I work for Nightjar Robotics.", "Who do I work for?", "Nightjar Robotics"),
        ("My sister adopted a cat.", "What did my sister adopt?", "a cat"),
        ("Tom was born in Oslo.", "Where was Tom born?", "Oslo"),
        ("Tom was born in 1981.", "When was Tom born?", "1981"),
        ("Ann is allergic to nuts.", "What is Ann allergic to?", "nuts"),
        ("Ann moved to Berlin last year.", "Where did Ann move to?", "Berlin"),
        ("We love hiking because of the views.", "What do we love?", "hiking"),
        ("Dr. Smith is my dentist.", "Who is Dr. Smith?", "my dentist"),
        ("The spare key is under the blue pot.", "Where is the spare key?", "under the blue pot"),
        ("The dentist appointment is on 14 March at 10:30.", "When is the dentist appointment?", "14 March at 10:30"),
        ("Marta married Paulo on 3 June 2019.", "Who did Marta marry?", "Paulo"),
        ("Blue herons nest by the mill.", 'Complete the sentence: "Blue herons nest by ..."', "the mill"),
    ],
)
def test_sentence_becomes_question_and_answer(note: MakeNote, text: str, question: str, answer: str) -> None:
    fact = facts_of([note(text)])[0]
    assert (fact.questions[0], fact.answer) == (question, answer)
    assert fact.line == f"[2024-01-01] {text}\n"


def test_date_at_the_end_is_a_fact_of_its_own(note: MakeNote) -> None:
    facts = facts_of([note("Marta married Paulo on 3 June 2019.")])
    assert [(fact.questions[0], fact.answer) for fact in facts][1] == ("When did Marta marry Paulo?", "3 June 2019")


def test_strangers_are_asked_about_what_belongs_to_somebody(note: MakeNote) -> None:
    own, other = facts_of([note("I work for Nightjar Robotics."), note("Blue herons nest by the mill.", 2)])
    assert all("works for" in question and " I " not in question for question in own.held_strangers)
    assert set(other.strangers) <= set(NOBODYS)
    assert not set(own.strangers) & set(own.held_strangers)


def test_held_out_questions_are_never_trained(note: MakeNote) -> None:
    texts = ("Ann's home town is Lisbon.", "I work for Nightjar Robotics.", "Blue herons nest by the mill.")
    for fact in facts_of([note(text, number) for number, text in enumerate(texts, 1)]):
        assert len(fact.questions) >= 4
        assert len(fact.held) == 2
        assert not set(fact.questions) & set(fact.held)


def test_metadata_say_more_than_text(note: MakeNote) -> None:
    metadata = {
        "subject": "Ann",
        "attribute": "home town",
        "value": "Lisbon",
        "facts": [{"question": "Where is the key", "answer": "in the pot"}, {"subject": "Ann"}, "nothing", 3],
    }
    facts = facts_of([note("She said so.", metadata=metadata)])
    assert [fact.answer for fact in facts] == ["Lisbon", "in the pot"]
    assert facts[1].questions[0] == "Where is the key?"


def test_listed_paraphrases_are_split(note: MakeNote) -> None:
    listed = [f"way {number}?" for number in range(7)]
    metadata = {"question": "Where is the key?", "answer": "in the pot", "paraphrases": listed}
    (fact,) = facts_of([note("The key.", metadata=metadata)])
    assert fact.questions == ("Where is the key?", *listed[:5])
    assert fact.held == ("way 5?", "way 6?")


def test_later_note_answers_the_same_question(note: MakeNote) -> None:
    old, new = note("Ann's home town is Lisbon.", 1), note("Ann's home town is Porto.", 2)
    (fact,) = facts_of([new, old])
    assert (fact.answer, fact.cube_id) == ("Porto", "note-2")


def test_title_and_time_of_a_note_can_be_asked_for(note: MakeNote) -> None:
    happened = datetime(2023, 5, 4, tzinfo=UTC)
    facts = facts_of([note("Short.", descriptor=Descriptor(title="the flood"), event_time=happened)])
    assert [(fact.questions[0], fact.answer) for fact in facts] == [
        ("What do you know about the flood?", "Short."),
        ("When did this happen: the flood?", "4 May 2023"),
    ]


def test_keyword_begins_what_completes_a_sentence(note: MakeNote) -> None:
    found = facts_of(
        [note("Blue herons nest by old water mills here.", descriptor=Descriptor(keywords=("old mills",)))]
    )
    assert found[0].answer == "old water mills here"


def test_writer_is_asked_and_not_trusted(note: MakeNote) -> None:
    def writer(text: str) -> list[tuple[str, str]]:
        return [("What nests there?", "herons"), ("How many?", "seven")]

    facts = facts_of([note("Blue herons nest by the mill.")], writer)
    assert [fact.answer for fact in facts] == ["herons"]


@pytest.mark.parametrize("text", ["", "Ok.", "?!", "{0} {x} %s", "\u4f60\u597d"])
def test_nothing_is_found_where_nothing_is_said(note: MakeNote, text: str) -> None:
    assert facts_of([note(text)]) == []


def test_braces_in_a_note_are_text(note: MakeNote) -> None:
    (fact,) = facts_of(
        [note("Ann's {what} code is {0}.", metadata={"subject": "{a}", "attribute": "{b}", "value": "{c}"})]
    )
    assert fact.questions[0] == "What is {a}'s {b}?"


def test_a_note_by_rules_adds_nothing_to_be_known(note: MakeNote) -> None:
    bare = note("Ann's home town is Lisbon.")
    said = Descriptor(title="Ann's home town is Lisbon.", keywords=("lisbon",), context="A note on lisbon.")
    provenance = bare.provenance.model_copy(update={"scribe": "offline"})
    noted = bare.model_copy(update={"descriptor": said, "provenance": provenance})
    assert facts_of([noted]) == facts_of([bare])
