"""Store, update, evolve, roll back and forget in any order: links resolve, versions have no gaps, nothing crosses."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test

from memos.config import Settings
from memos.cube import CubeVersion, Scope, State
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.errors import NotFound
from memos.plaintext.notes.keeper import NoteKeeper
from memos.plaintext.notes.scribe import OfflineScribe

SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
USERS = ("u1", "u2")
TEXTS = (
    "I live in Rome.",
    "I live in Rome",
    "I moved from Rome to Oslo.",
    "I live in Paris with Ann.",
    "Ann adopted a cat called Milo.",
    "Ann adopted a cat called Milo from the shelter in Rome, says Tom.",
    "Milo the cat was taken to the vet because he was bitten.",
    "Tom is allergic to cats.",
    "Tom's team has 5 members.",
    "Tom's team has 6 members.",
    "I have never seen the cat Milo in Rome.",
    "[2026-05-08] I live in Rome.\n[2026-05-08] Ann adopted a cat called Milo.",
)


class Notes(RuleBasedStateMachine):
    """Two users with the same texts. ``written`` remembers every version that was ever seen."""

    embedder: Embedder
    memories = Bundle("memories")

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        settings = Settings(home=Path(self._folder.name), notes="off")
        self.engine = MemoryOS(settings, self.embedder)
        self.owner: dict[str, str] = {}
        self.seen: dict[tuple[str, int], CubeVersion] = {}

    def teardown(self) -> None:
        self.engine.close()
        self._folder.cleanup()

    # ------------------------------------------------------------ what happens

    @rule(target=memories, user=st.sampled_from(USERS), text=st.sampled_from(TEXTS))
    def store(self, user: str, text: str) -> str:
        cube_id = self.engine.store_many(Scope(user_id=user), [{"text": text}])[0].id
        self.owner[cube_id] = user
        return cube_id

    @rule(cube_id=memories, text=st.sampled_from(TEXTS))
    def update(self, cube_id: str, text: str) -> None:
        self._unless_forgotten(cube_id, lambda: self.engine.update("default", cube_id, text=text))

    @rule(user=st.sampled_from(USERS))
    def write_notes(self, user: str) -> None:
        self._keeper().run(Scope(user_id=user), {}, lambda _: None)

    @rule(cube_id=memories)
    def write_again(self, cube_id: str) -> None:
        if cube_id in self.owner:
            self._keeper().run(Scope(user_id=self.owner[cube_id]), {"ids": [cube_id]}, lambda _: None)

    @rule(cube_id=memories, data=st.data())
    def roll_back(self, cube_id: str, data: st.DataObject) -> None:
        if cube_id not in self.owner:
            return
        history = self.engine.history("default", cube_id)
        if len(history) < 2:
            return
        earlier = data.draw(st.sampled_from(history[:-1]))
        back = self.engine.rollback("default", cube_id, earlier.version)
        assert (back.text, back.metadata, back.digest) == (earlier.text, earlier.metadata, earlier.digest)
        assert back.descriptor == earlier.descriptor
        assert back.version == history[-1].version + 1

    @rule(cube_id=consumes(memories))
    def forget(self, cube_id: str) -> None:
        if cube_id not in self.owner:
            return
        for gone in self.engine.forget("default", cube_id).cube_ids:
            del self.owner[gone]
            with pytest.raises(NotFound):
                self.engine.get("default", gone)
        self.seen.clear()  # what earlier versions said with the help of what is gone, they say no more

    # ------------------------------------------------------------ what holds

    @invariant()
    def links_are_symmetric_and_resolve(self) -> None:
        for cube_id in self.owner:
            links = self.engine.links("default", cube_id)
            assert len({link.target_id for link in links}) == len(links)
            for link in links:
                assert link.source_id == cube_id
                assert self.owner[link.target_id] == self.owner[cube_id]
                other = next(one for one in self.engine.links("default", link.target_id) if one.target_id == cube_id)
                assert other.seen_from(cube_id) == link
                versions = {version.version for version in self.engine.history("default", link.target_id)}
                assert link.target_version in versions

    @invariant()
    def versions_have_no_gaps_and_do_not_change(self) -> None:
        for cube_id in self.owner:
            history = self.engine.history("default", cube_id)
            assert [version.version for version in history] == list(range(1, len(history) + 1))
            assert self.engine.get("default", cube_id).version == len(history)
            for version in history[:-1]:
                assert self.seen.setdefault((cube_id, version.version), version) == version

    @invariant()
    def nothing_crosses_a_namespace(self) -> None:
        for user in USERS:
            scope = Scope(user_id=user)
            notes, links = self.engine.graph(scope)
            mine = {cube_id for cube_id, owner in self.owner.items() if owner == user}
            assert {note.id for note in notes} == mine
            assert _ends(links) <= mine
            for note in notes:
                assert {parent.cube_id for parent in note.provenance.parents} <= mine
            assert {hit.id for hit in self.engine.recall(scope, "Where does Milo live?", top_k=50).hits} <= mine

    @invariant()
    def what_is_merged_has_somebody_to_stand_for_it(self) -> None:
        for user in USERS:
            listed = {cube.id: cube for cube in self.engine.list(Scope(user_id=user))}
            hidden = {cube_id for cube_id, owner in self.owner.items() if owner == user} - listed.keys()
            for cube_id in hidden:
                assert self.engine.get("default", cube_id).state is State.ARCHIVED

    # ------------------------------------------------------------ inside

    def _keeper(self) -> NoteKeeper:
        engine = self.engine
        return NoteKeeper(
            engine.database, engine._embedder, engine._views, OfflineScribe(), engine._discard, lambda: None
        )

    def _unless_forgotten(self, cube_id: str, act: Any) -> None:
        if cube_id in self.owner:
            act()


def _ends(links: Iterable[Any]) -> set[str]:
    return {end for link in links for end in (link.source_id, link.target_id)}


@pytest.mark.timeout(600)  # a store for each of its histories, and YAKE for each of their notes
def test_notes_in_any_order(embedder: Embedder) -> None:
    machine = type("Machine", (Notes,), {"embedder": embedder})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=200 if SOAK else 12,
            stateful_step_count=16,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
