"""Notes of a real store: constructed after the write, linked, evolved, merged, put aside, rolled back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from memos.cube import MemCube, Scope, State
from memos.engine import MemoryOS
from memos.errors import InvalidInput, NotFound
from memos.plaintext.notes.member import Draft
from memos.plaintext.notes.scribe import OfflineScribe
from memos.plaintext.notes.scribe import Written as NoteWritten
from memos.store.derived import Derived, Gone
from memos.store.jobs import FINAL, Job, JobState

Told = Callable[..., list[MemCube]]
Written = Callable[..., Job]

#: Five facts, three ways to tell each: what mem0#5850 keeps 13 of.
REWORDINGS = (
    (
        "Sarah works as a nurse in Boston.",
        "Sarah is employed as a nurse in Boston.",
        "In Boston, Sarah works as a nurse.",
    ),
    ("Tom is allergic to peanuts.", "Tom has a peanut allergy.", "Tom has an allergy to peanuts."),
    (
        "My favourite colour is dark green.",
        "Dark green is my favourite colour.",
        "The colour I like best is dark green.",
    ),
    (
        "The team meets every Monday at 9.",
        "Every Monday at 9 the team meets.",
        "The team has a meeting every Monday at 9.",
    ),
    ("Kit's dog is called Biscuit.", "Kit has a dog named Biscuit.", "Biscuit is the name of Kit's dog."),
)


def test_note_is_written_after_the_write(kept: MemoryOS, written: Written) -> None:
    (cube,) = kept.store_many(Scope(), [{"text": "The captain of the survey ship Kestrel is Ingrid Vale."}])
    assert cube.state is State.GENERATED
    assert kept.recall(Scope(), "Who is the captain?").hits[0].id == cube.id
    written(kept)
    now = kept.get("default", cube.id)
    assert (now.state, now.version, now.provenance.scribe) == (State.ACTIVATED, 1, "offline")
    assert "Ingrid Vale" in now.descriptor.entities
    assert now.descriptor.keywords
    assert now.descriptor.tags
    assert now.descriptor.context
    assert now.text == cube.text


def test_without_infer_nothing_is_written(kept: MemoryOS, written: Written) -> None:
    (cube,) = kept.store_many(Scope(), [{"text": "Ann adopted a cat", "infer": False}])
    written(kept)
    assert kept.get("default", cube.id).provenance.scribe is None


def test_update_has_a_note_of_its_own(kept: MemoryOS, told: Told, written: Written) -> None:
    (cube,) = told(kept, "Ann adopted a cat called Milo.")
    kept.update("default", cube.id, text="Ann adopted a dog called Rex.")
    written(kept)
    now = kept.get("default", cube.id)
    assert now.version == 2
    assert "Rex" in now.descriptor.entities
    assert [version.descriptor.title for version in kept.history("default", cube.id)] == [
        "Ann adopted a cat called Milo.",
        "Ann adopted a dog called Rex.",
    ]


def test_rewordings_are_one_memory_each(kept: MemoryOS, told: Told) -> None:
    cubes = told(kept, *(text for way in zip(*REWORDINGS, strict=True) for text in way))
    standing = [cube for cube in cubes if cube.state is State.ACTIVATED]
    assert [cube.text for cube in standing] == [ways[0] for ways in REWORDINGS]
    for cube in standing:
        assert len(kept.get("default", cube.id).provenance.parents) == 2
    assert {hit.id for hit in kept.recall(Scope(), "What do I know?", top_k=50).hits} == {cube.id for cube in standing}
    assert [cube.id for cube in kept.list(Scope())] == [cube.id for cube in standing]


def test_what_is_merged_may_be_written_again(kept: MemoryOS, told: Told) -> None:
    standing, duplicate = told(kept, "I live in Rome.", "I live in Rome")
    job = kept.refine(Scope(), [duplicate.id])
    while (job := kept.job("default", job.id)).state not in FINAL:
        time.sleep(0.01)
    assert job.state is JobState.DONE, job.error
    (source,) = kept.get("default", standing.id).provenance.parents
    assert source.cube_id == duplicate.id
    assert [cube.id for cube in kept.list(Scope())] == [standing.id]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ann adopted a cat.", "Ann adopted a dog."),
        ("The meeting is on 5 May.", "The meeting is on 6 May."),
        ("I like tea.", "I do not like tea."),
        ("Tom is allergic to peanuts.", "Tom is allergic to shellfish."),
        ("Tom is allergic to peanuts.", "Kit is allergic to peanuts."),
        ("Sarah works as a nurse in Boston.", "Does Sarah work as a nurse in Boston?"),
    ],
)
def test_what_only_sounds_alike_stays_two(kept: MemoryOS, told: Told, one: str, other: str) -> None:
    assert [cube.state for cube in told(kept, one, other)] == [State.ACTIVATED] * 2


def test_duplicates_differ_in_what_recall_can_be_narrowed_by(kept: MemoryOS, told: Told) -> None:
    text = "Sarah works as a nurse in Boston."
    for item in ({}, {"run_id": "s1"}, {"agent_id": "a"}, {"metadata": {"topic": "work"}}):
        assert told(kept, text, **item)[0].state is State.ACTIVATED


def test_forgetting_takes_duplicates_along(kept: MemoryOS, told: Told) -> None:
    first, second, third = told(kept, *REWORDINGS[0])
    receipt = kept.forget("default", first.id)
    assert set(receipt.cube_ids) == {first.id, second.id, third.id}
    with pytest.raises(NotFound):
        kept.get("default", third.id)


def test_forgetting_a_duplicate_leaves_the_memory(kept: MemoryOS, told: Told) -> None:
    first, second, third = told(kept, *REWORDINGS[0])
    kept.forget("default", second.id)
    assert [parent.cube_id for parent in kept.get("default", first.id).provenance.parents] == [third.id]


# ------------------------------------------------------------ contradictions


def test_what_is_no_longer_true_is_closed_and_ranked_below(kept: MemoryOS, told: Told) -> None:
    old, new = told(kept, "I live in Rome with my brother.", "I moved from Rome to Oslo.")
    assert old.time.valid_to == new.time.created_at
    assert old.text == "I live in Rome with my brother."
    assert [(link.type, link.target_id, link.reversed) for link in kept.links("default", old.id)] == [
        ("contradicts", new.id, True)
    ]
    found = kept.recall(Scope(), "Where do I live?", explain=True).hits
    assert [hit.id for hit in found] == [new.id, old.id]
    assert (found[0].why or {})["path"][0]["type"] == "contradicts"
    assert (found[1].why or {})["valid_to"]


def test_what_was_true_is_found_as_of_then(kept: MemoryOS, told: Told) -> None:
    old, _ = told(kept, "I live in Rome.", event_time="2024-01-01") + told(
        kept, "I moved from Rome to Oslo.", event_time="2025-06-01"
    )
    assert [hit.id for hit in kept.recall(Scope(), "Where do I live?", as_of="2024-06-01").hits] == [old.id]
    assert old.id not in {hit.id for hit in kept.recall(Scope(), "Where do I live?", as_of="2025-07-01").hits}


def test_newest_of_several_comes_first(kept: MemoryOS, told: Told) -> None:
    told(kept, "My phone number ends in 11.", "I live in Rome.", "I live in Oslo.", "I live in Paris.")
    best = kept.recall(Scope(), "I live in Rome.").hits[0]
    assert best.text == "I live in Paris."


def test_an_older_event_told_later_is_what_no_longer_holds(kept: MemoryOS, told: Told, written: Written) -> None:
    (oslo,) = told(kept, "I live in Oslo.", event_time="2025-06-01")
    (rome,) = told(kept, "I live in Rome.", event_time="2020-06-01")
    assert kept.get("default", oslo.id).time.valid_to is None
    assert rome.time.valid_to == oslo.time.event_time
    assert [hit.id for hit in kept.recall(Scope(), "Do I live in Rome?").hits] == [oslo.id, rome.id]
    (link,) = kept.links("default", oslo.id)
    assert (link.type, link.target_id, link.reversed) == ("contradicts", rome.id, False)
    kept.forget("default", oslo.id)
    written(kept)
    assert kept.get("default", rome.id).time.valid_to is None


def test_what_another_memory_closed_stays_closed(kept: MemoryOS, told: Told, written: Written) -> None:
    rome, oslo, paris = told(kept, "I live in Rome.", "I live in Oslo.", "I live in Paris.")
    kept.forget("default", oslo.id)
    written(kept)
    assert kept.get("default", rome.id).time.valid_to == paris.time.created_at
    assert kept.recall(Scope(), "I live in Rome.").hits[0].id == paris.id


def test_many_contradictions_change_what_they_contradict_only(kept: MemoryOS, told: Told) -> None:
    towns = ("Rome", "Oslo", "Paris", "Lisbon", "Vienna", "Prague")
    cubes = told(kept, *(f"I live in {town}." for town in towns), "I live in Athens.")
    assert [cube.time.valid_to is None for cube in cubes] == [False] * len(towns) + [True]


# ------------------------------------------------------------ versions


def test_evolution_is_a_version_with_diff_and_reason(kept: MemoryOS, told: Told) -> None:
    old, new = told(kept, "I live in Rome.", "I moved from Rome to Oslo.")
    first, second = kept.history("default", old.id)
    assert (first.version, second.version, second.author) == (1, 2, "offline")
    assert first.text == second.text
    assert new.id in (second.reason or "")
    changes = second.changes or {}
    assert changes["valid_to"] == [None, new.time.created_at.isoformat()]
    assert changes["context"][0] == first.descriptor.context
    assert changes["context"][1] == second.descriptor.context


def test_rollback_restores_exactly(kept: MemoryOS, told: Told) -> None:
    old, _ = told(kept, "I live in Rome.", "I moved from Rome to Oslo.")
    back = kept.rollback("default", old.id, 1)
    first = kept.history("default", old.id)[0]
    assert (back.version, back.text, back.descriptor) == (3, first.text, first.descriptor)
    assert back.time.valid_to is None
    assert [version.version for version in kept.history("default", old.id)] == [1, 2, 3]


def test_rollback_of_an_update_brings_the_text_back(kept: MemoryOS, told: Told, written: Written) -> None:
    (cube,) = told(kept, "Ann adopted a cat called Milo.", metadata={"topic": "pets"})
    kept.update("default", cube.id, text="Ann adopted a dog called Rex.", metadata={})
    written(kept)
    back = kept.rollback("default", cube.id, 1)
    assert (back.text, back.metadata, back.descriptor) == (cube.text, {"topic": "pets"}, cube.descriptor)
    assert kept.recall(Scope(), "Milo the cat").hits[0].text == cube.text


@pytest.mark.parametrize("version", [0, 2, 99, -1])
def test_rollback_to_no_earlier_version(kept: MemoryOS, told: Told, version: int) -> None:
    (cube,) = told(kept, "Ann adopted a cat.")
    kept.update("default", cube.id, metadata={"a": 1})
    with pytest.raises(InvalidInput):
        kept.rollback("default", cube.id, version)


# ------------------------------------------------------------ links


def test_links_are_seen_from_both_ends(kept: MemoryOS, told: Told) -> None:
    cubes = told(kept, "Ann adopted a cat called Milo.", "Milo the cat sleeps on the sofa.", "Milo hates the vet.")
    for cube in cubes:
        for link in kept.links("default", cube.id):
            assert link.source_id == cube.id
            mirrored = [one for one in kept.links("default", link.target_id) if one.target_id == cube.id]
            assert [(one.type, one.score, one.reversed) for one in mirrored] == [
                (link.type, link.score, not link.reversed)
            ]


def test_no_link_outlives_an_end(kept: MemoryOS, told: Told) -> None:
    one, two = told(kept, "Ann adopted a cat called Milo.", "Milo the cat sleeps on the sofa.")
    assert kept.links("default", two.id)
    kept.forget("default", one.id)
    assert kept.links("default", two.id) == []


def test_a_memory_keeps_a_bounded_number_of_links(kept: MemoryOS, told: Told) -> None:
    told(kept, "The Kestrel is a ship.", *(f"The Kestrel sailed to port number {n} with cargo." for n in range(24)))
    notes, links = kept.graph(Scope())
    degree = {note.id: 0 for note in notes}
    for link in links:
        degree[link.source_id] += 1
        degree[link.target_id] += 1
    assert max(degree.values()) <= 16


def test_linked_memories_come_along(kept: MemoryOS, told: Told) -> None:
    told(
        kept,
        "Ann's cat is called Milo.",
        "Milo was bitten by a fox last week.",
        *(f"Filler {n} about rain" for n in range(5)),
    )
    found = kept.recall(Scope(), "Ann's cat", explain=True).hits
    bitten = next(hit for hit in found if "fox" in hit.text)
    assert (bitten.why or {})["parts"]["links"] > 0
    assert (bitten.why or {})["path"]


def test_namespaces_do_not_link(kept: MemoryOS, told: Told) -> None:
    told(kept, "Ann's cat is called Milo.", user_id="u1")
    (other,) = told(kept, "Ann's cat is called Milo.", user_id="u2")
    assert other.state is State.ACTIVATED
    assert kept.links("default", other.id) == []


# ------------------------------------------------------------ echoes


def test_recalled_text_that_comes_back_is_put_aside(kept: MemoryOS, told: Told) -> None:
    told(kept, "Ann adopted a cat called Milo.", "Tom is allergic to peanuts and to cats.")
    recalled = kept.recall(Scope(), "Ann and Tom").context
    (echo,) = told(kept, recalled)
    assert echo.state is State.QUARANTINED
    assert "repeats" in (echo.provenance.remark or "")
    assert echo.id not in {hit.id for hit in kept.recall(Scope(), "Ann's cat", top_k=20).hits}


def test_what_a_model_says_word_for_word_is_put_aside(kept: MemoryOS, told: Told) -> None:
    told(kept, "Ann adopted a grey cat called Milo in spring.")
    (echo,) = told(kept, "Ann adopted a grey cat called Milo in spring.", metadata={"role": "assistant"})
    assert echo.state is State.QUARANTINED


def test_a_quotation_in_something_new_is_kept(kept: MemoryOS, told: Told) -> None:
    told(kept, "Ann adopted a cat called Milo.")
    text = (
        "You once said [2026-05-08] Ann adopted a cat called Milo. That is not quite right: she fosters him for a "
        "friend who is abroad until autumn, and he goes back to her then."
    )
    assert told(kept, text)[0].state is State.ACTIVATED


def test_event_day_comes_from_the_text(kept: MemoryOS, told: Told) -> None:
    (cube,) = told(kept, "The call with the publisher is on 2031-06-01.")
    assert f"{cube.time.event_time:%Y-%m-%d}" == "2031-06-01"


def test_sensitivity_is_told(kept: MemoryOS, told: Told) -> None:
    assert told(kept, "my password is hunter2")[0].governance.sensitivity == "secret"


# ------------------------------------------------------------ unlearning


def test_forgetting_takes_back_what_it_changed_elsewhere(kept: MemoryOS, told: Told, written: Written) -> None:
    (old,) = told(kept, "I live in Rome with my brother.")
    (new,) = told(kept, "I moved from Rome to Zanzibar.")
    assert kept.get("default", old.id).time.valid_to is not None
    kept.forget("default", new.id)
    assert kept.get("default", old.id).time.valid_to is None
    written(kept)
    now = kept.get("default", old.id)
    assert now.descriptor == old.descriptor
    assert "anzibar" not in repr(kept.history("default", old.id)).lower()


def test_nothing_of_what_is_forgotten_is_left_in_notes(
    kept: MemoryOS, told: Told, written: Written, data_folder: Path
) -> None:
    told(kept, "Ann adopted a cat called Milo.", "I live in Rome.")
    new = told(kept, "Milo the cat was adopted by Ann in Zanzibar.", "I moved from Rome to Zanzibar.")
    assert any("anzibar" in repr(kept.history("default", cube.id)) for cube in kept.list(Scope()))
    for cube in new:
        kept.forget("default", cube.id)
    written(kept)
    assert all("anzibar" not in repr(kept.history("default", cube.id)) for cube in kept.list(Scope()))
    kept.close()
    left = [path.name for path in data_folder.rglob("*") if path.is_file() and b"anzibar" in path.read_bytes()]
    assert left == []


def test_what_is_forgotten_meanwhile_comes_back_in_no_note(
    kept: MemoryOS, told: Told, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    (old,) = told(kept, "I live in Rome with my brother.")
    (new,) = told(kept, "I moved from Rome to Zanzibar.")
    write = OfflineScribe.write

    def forgetting(self: OfflineScribe, drafts: Sequence[Draft]) -> list[NoteWritten]:
        notes = write(self, drafts)
        monkeypatch.setattr(OfflineScribe, "write", write)
        kept.forget("default", new.id)
        return notes

    monkeypatch.setattr(OfflineScribe, "write", forgetting)
    told(kept, "I live in Rome with my brother and two cats, near the bakery.")
    written(kept)
    assert kept.get("default", old.id).time.valid_to is None
    history = kept.history("default", old.id)
    assert "uperseded" not in repr(history)
    assert [one.changes for one in history] == [None, None]  # what it was to become rested on what is gone


def test_what_a_model_was_shown_is_taken_back(kept: MemoryOS, told: Told, written: Written) -> None:
    from memos.store import namespaces
    from memos.store.notes import NoteRepository

    one, two = told(kept, "Ann adopted a cat called Milo.", "Tom plays the banjo on Fridays.")
    with kept.database.write() as connection:
        namespace = namespaces.open_for_write(connection, Scope())
        NoteRepository(connection, namespace.id).influence([(two.id, 1, {one.id})])
    kept.forget("default", one.id)
    assert kept.get("default", two.id).provenance.scribe in (None, "offline")
    written(kept)
    assert kept.get("default", two.id).descriptor == two.descriptor


def test_a_kv_file_of_what_is_merged_goes(kept: MemoryOS, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    invalidated: list[list[str]] = []
    real = Derived.invalidate

    def remember(self: Derived, ids: Sequence[str], *, changed: bool = False) -> Gone:
        invalidated.append(list(ids))
        return real(self, ids, changed=changed)

    monkeypatch.setattr(Derived, "invalidate", remember)
    _, duplicate = told(kept, "I live in Rome.", "I live in Rome")
    assert [duplicate.id] in invalidated


def test_influences_travel(kept: MemoryOS, told: Told, written: Written, tmp_path: Path) -> None:
    (old,) = told(kept, "I live in Rome.")
    (new,) = told(kept, "I moved from Rome to Zanzibar.")
    kept.export(Scope(), tmp_path / "out.jsonl")
    kept.forget_all(Scope())
    kept.import_(Scope(), tmp_path / "out.jsonl")
    assert kept.get("default", old.id).time.valid_to is not None
    kept.forget("default", new.id)
    written(kept)
    assert kept.get("default", old.id).time.valid_to is None
    assert "anzibar" not in repr(kept.history("default", old.id)).lower()
