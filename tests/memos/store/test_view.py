"""A view that followed every change equals one loaded afresh, and both equal a model of what should be there."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from typing import Any, cast

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from numpy.typing import NDArray

from memos.cube import RECALLABLE, NewMemory, Scope, State
from memos.embedding.base import Embedder
from memos.embedding.serving import register
from memos.engine import MemoryOS
from memos.plaintext.analysis import terms
from memos.plaintext.writer import _prepare
from memos.store import embedder_table, namespaces
from memos.store.cubes import CubeRepository
from memos.store.view import NEVER, NONE, NamespaceView

SPEAKERS = st.sampled_from(["Ann", "Bob", None])
RUNS = st.sampled_from(["r1", "r2", None])
WORDS = ["cat", "dog", "fish", "paris", "taxes"]
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)
AGENTS = st.sampled_from(["a1", None])
USERS = count()


@dataclass
class Expected:
    """One memory as the model knows it."""

    text: str
    run_id: str | None
    agent_id: str | None
    speaker: str | None
    texts: list[str] = field(default_factory=list)
    state: State = State.ACTIVATED


class ViewMachine(RuleBasedStateMachine):
    """Random writes, with the view catching up after any number of them."""

    def __init__(self, engine: MemoryOS) -> None:
        super().__init__()
        self.engine = engine
        self.user_id = f"user {next(USERS)}"  # one store for all runs: opening one costs more than a run
        self.model: dict[str, Expected] = {}
        self.view: NamespaceView | None = None
        self.caught_up = True

    def scope(self, **names: str | None) -> Scope:
        return Scope(user_id=self.user_id, **names)

    def pick(self, number: int) -> str:
        return list(self.model)[number % len(self.model)]

    @rule(
        texts=st.lists(TEXTS, min_size=1, max_size=3),
        run_id=RUNS,
        agent_id=AGENTS,
        speaker=SPEAKERS,
    )
    def store(self, texts: list[str], run_id: str | None, agent_id: str | None, speaker: str | None) -> None:
        metadata = {"speaker": speaker} if speaker else {}
        scope = self.scope(run_id=run_id, agent_id=agent_id)
        items = [{"text": text, "metadata": metadata, "infer": False} for text in texts]
        for cube in self.engine.store_many(scope, items):
            text = cube.text or ""
            self.model[cube.id] = Expected(text, run_id, agent_id, speaker, [text])
        self.caught_up = False

    @rule(text=TEXTS)
    def store_elsewhere(self, text: str) -> None:
        self.engine.store_many(Scope(user_id="other"), [{"text": text}])

    @precondition(lambda self: self.model)
    @rule(number=st.integers(0, 20), text=TEXTS)
    def update(self, number: int, text: str) -> None:
        cube_id = self.pick(number)
        self.engine.update("default", cube_id, text=text)
        self.model[cube_id].text = text
        self.model[cube_id].texts.append(text)
        self.caught_up = False

    @precondition(lambda self: self.model)
    @rule(number=st.integers(0, 20))
    def move(self, number: int) -> None:
        """Put away, or take out again."""
        cube_id = self.pick(number)
        target = State.ARCHIVED if self.model[cube_id].state == State.ACTIVATED else State.ACTIVATED
        self.engine.move("default", cube_id, target)
        self.model[cube_id].state = target
        self.caught_up = False

    @precondition(lambda self: self.model)
    @rule(number=st.integers(0, 20))
    def forget(self, number: int) -> None:
        cube_id = self.pick(number)
        self.engine.forget("default", cube_id)
        del self.model[cube_id]
        self.caught_up = False

    @rule(agent_id=AGENTS)
    def forget_all(self, agent_id: str | None) -> None:
        self.engine.forget_all(self.scope(agent_id=agent_id))
        for cube_id, expected in list(self.model.items()):
            if agent_id in (None, expected.agent_id):
                del self.model[cube_id]
        self.caught_up = False

    @rule(text=TEXTS)
    def recall(self, text: str) -> None:
        found = self.engine.recall(self.scope(), text, top_k=100, explain=True).hits
        twins = {twin for hit in found for twin in (hit.why or {})["duplicates"]}
        seen = {hit.id: hit.text for hit in found}
        expected = {key: one.text for key, one in self.model.items() if one.state in RECALLABLE}
        assert seen.keys() | twins == expected.keys()
        assert seen.items() <= expected.items()

    @rule()
    def catch_up(self) -> None:
        """Now and then: between two of these lie any number of writes."""
        with self.engine.database.read() as connection:
            namespace = namespaces.find(connection, self.scope())
            row = embedder_table.active(connection)
            if namespace is None or row is None:
                return
            fresh = NamespaceView(namespace.id, row.id, row.dimension)
            fresh.catch_up(connection, namespace)
            if self.view is None:
                self.view = NamespaceView(namespace.id, row.id, row.dimension)
            self.view.catch_up(connection, namespace)
        self.caught_up = True
        assert picture(self.view) == picture(fresh)

    @invariant()
    def view_equals_model(self) -> None:
        if self.caught_up and self.view is not None:
            assert_model(self.view, self.model)


def picture(view: NamespaceView) -> dict[str, Any]:
    """Everything recall reads from a view, free of row numbers."""
    live = np.flatnonzero(view.vectors.any(axis=1)).tolist()
    names = {number: name for name, number in view.speakers.items()}
    rows = {(view.cube_ids[row], view.versions[row]): row for row in live}
    return {
        "rows": {
            key: (
                bool(view.current[row]),
                bool(view.recallable[row]),
                bool(view.asks[row]),
                int(view.valid_from[row]),
                int(view.valid_to[row]),
                int(view.expires_at[row]),
                int(view.event_time[row]),
                int(view.row_revision[row]),
                names.get(int(view.speaker[row])),
                view.columns.header(row, "agent_id"),
                view.columns.header(row, "run_id"),
                view.columns.header(row, "state"),
                view.lexical.lengths[row],
                view.vectors[row].tobytes(),
                around(view, row),
            )
            for key, row in rows.items()
        },
        "row_of": {cube_id: (view.cube_ids[row], view.versions[row]) for cube_id, row in view.row_of.items()},
        "turns": dict(view.turns),
        "idf": {word: view.lexical.idf(stem) for word in WORDS for stem in terms(word)},
        "mean length": round(view.lexical.mean_length, 6),
        "bm25": {key: bm25(view)[row] for key, row in rows.items() if view.current[row]},
    }


def around(view: NamespaceView, row: int) -> tuple[str | None, str | None]:
    """The cubes before and after a row in its session."""
    before, after = (int(ends[row]) for ends in view.chain)
    return (
        None if before == NONE else view.cube_ids[before],
        None if after == NONE else view.cube_ids[after],
    )


def bm25(view: NamespaceView) -> NDArray[np.float32]:
    weights = {stem: view.lexical.idf(stem) for word in WORDS for stem in terms(word)}
    return np.round(view.lexical.scores(weights), 4)


def assert_model(view: NamespaceView, model: dict[str, Expected]) -> None:
    current = np.flatnonzero(view.current).tolist()
    assert {view.cube_ids[row]: view.versions[row] for row in current} == {
        key: len(one.texts) for key, one in model.items()
    }
    assert view.row_of == {view.cube_ids[row]: row for row in current}
    for row in current:
        assert bool(view.recallable[row]) == (model[view.cube_ids[row]].state in RECALLABLE)
        assert view.valid_to[row] == NEVER
    spoken = Counter(one.speaker for one in model.values() if one.speaker)
    assert dict(view.turns) == dict(spoken)
    for run_id in ("r1", "r2"):
        session = [key for key, one in model.items() if one.run_id == run_id]
        ends = [None, *session, None]
        assert {key: around(view, view.row_of[key]) for key in session} == {
            key: (ends[place], ends[place + 2]) for place, key in enumerate(session)
        }


def test_view_follows_every_change(engine: MemoryOS) -> None:
    machine = cast("type[RuleBasedStateMachine]", lambda: ViewMachine(engine))
    run_state_machine_as_test(machine, settings=settings(stateful_step_count=20))


def test_writers_that_overtake_each_other(engine: MemoryOS, embedder: Embedder) -> None:
    """Ids are given before a writer's turn comes: a session stays in the order of ids whoever commits first."""
    items = [NewMemory(text=f"turn {number}", run_id="r") for number in range(4)]
    notes = _prepare(items, embedder)
    with engine.database.write() as connection:
        home = namespaces.open_for_write(connection, Scope()).id
        row = register(connection, embedder)
    view = NamespaceView(home, row.id, row.dimension)
    for place in (1, 3, 0, 2):
        with engine.database.write() as connection:
            namespace = namespaces.open_for_write(connection, Scope())
            CubeRepository(connection, home).insert([notes[place]], namespace.revision, row.id)
        with engine.database.read() as connection:
            view.catch_up(connection, namespaces.read(connection, home))
    fresh = NamespaceView(home, row.id, row.dimension)
    with engine.database.read() as connection:
        fresh.catch_up(connection, namespaces.read(connection, home))
    assert picture(view) == picture(fresh)
    ends = [None, *(note.id for note in notes), None]
    for place, note in enumerate(notes):
        assert around(view, view.row_of[note.id]) == (ends[place], ends[place + 2])
