"""Promotion to weights as a job: refused, stopped, resumed, overtaken by a change; nothing half-published."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from memos.cube import MemCube, Scope
from memos.engine import MemoryOS
from memos.errors import Conflict, GateRefused, InvalidInput, NotFound, TrainingRefused
from memos.parametric.distil import examples as examples_module
from memos.parametric.distil import run as run_module
from memos.parametric.distil.checkpoint import FILE
from memos.parametric.distil.facts import Fact
from memos.parametric.distil.gate import GateReport, examine
from memos.parametric.promotion import grouped
from memos.schedule.task import Cancelled, Halt, Interrupted
from tests.memos.parametric.distil.quick import FACTS, QUICK, SCOPE


@pytest.fixture
def facts(engine: MemoryOS) -> list[MemCube]:
    return engine.store_many(SCOPE, [{"text": text} for text in FACTS])


def run(engine: MemoryOS, notes: list[MemCube], report: Any = lambda _: None, **options: Any) -> dict[str, Any]:
    payload = {**QUICK, **options, "ids": [note.id for note in notes], "to": "parametric"}
    return engine.parametric.run_promotion(SCOPE, payload, report)


def files(engine: MemoryOS) -> list[str]:
    """Name every file of trainings and adapters."""
    home = engine.settings.home
    found = [path for folder in ("training", "adapters") for path in (home / folder).rglob("*")]
    return [path.name for path in found if path.is_file() and path.suffix == ".safetensors"]


def stop_at(share: float, halt: type[Halt] = Interrupted) -> Any:
    """Stand for a process that ends in the middle, or for a job that is cancelled there."""

    def report(done: float) -> None:
        if done >= share:
            raise halt

    return report


def test_what_fails_its_gate_is_a_report_and_serves_nobody(engine: MemoryOS, facts: list[MemCube]) -> None:
    with pytest.raises(GateRefused, match="must answer 80%") as refusal:
        run(engine, facts)
    (kept,) = engine.adapters(SCOPE)
    assert kept.cube_id in str(refusal.value)
    assert (kept.state, kept.bytes) == ("rejected", 0)
    assert kept.gate is not None
    assert kept.gate["reasons"]
    assert kept.provenance["recipe"]["rank"] == 2
    assert kept.provenance["options"] == dict(QUICK)
    assert files(engine) == []
    assert [engine.get("default", note.id).version for note in facts] == [1, 1]


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the gate pass everything but what the list names, by the order in which it is asked."""
    asked, failing = count(), list[int]()

    def verdict(*given: Any) -> GateReport:
        return replace(examine(*given), reasons=("it is to fail",) if next(asked) in failing else ())

    monkeypatch.setattr(run_module, "examine", verdict)
    return failing


def test_many_facts_become_several_adapters(engine: MemoryOS, lenient: list[int]) -> None:
    texts = [*FACTS, "Ada Finch's dog is a beagle.", "Ben Holt's favourite tree is the larch.", "Hm."]
    notes = engine.store_many(SCOPE, [{"text": text} for text in texts])
    told: list[float] = []
    result = run(engine, notes, told.append, facts=2, name="people")
    records = engine.parametric.published(SCOPE, engine.models.serving().loaded.identity.base)
    sources = [{cube_id for cube_id, _ in record.sources} for record in records]
    assert sources == [{notes[0].id, notes[1].id}, {notes[2].id, notes[3].id}]
    assert [record.name for record in records] == ["people 1", "people 2"]
    assert result["cube_ids"] == [record.cube_id for record in records]
    assert (result["cube_id"], result["facts"], result["made"]) == (records[0].cube_id, 4, True)
    assert (result["skipped"], result["refused"]) == ([notes[4].id], [])
    assert told == sorted(told)
    again = run(engine, notes, facts=2, name="people")
    assert (again["cube_ids"], again["made"]) == (result["cube_ids"], False)


def test_what_fails_beside_others_is_told(engine: MemoryOS, facts: list[MemCube], lenient: list[int]) -> None:
    lenient.append(0)
    result = run(engine, facts, facts=1)
    states = {info.cube_id: info.state for info in engine.adapters(SCOPE)}
    (failed,) = result["refused"]
    assert states == {failed: "rejected", result["cube_id"]: "published"}


def test_far_too_many_facts_are_refused_before_any_is_trained(
    engine: MemoryOS, facts: list[MemCube], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examples_module, "MAX_FACTS", 1)
    with pytest.raises(TrainingRefused, match="promote at most 1"):
        run(engine, facts, facts=1)
    assert engine.adapters(SCOPE) == []


def test_notes_stay_whole() -> None:
    def fact(cube_id: str) -> Fact:
        return Fact(cube_id, "line", "answer", ("question?",), ("held?",))

    facts = [fact("a"), fact("b"), fact("b"), fact("b"), fact("c"), fact("d")]
    assert [[one.cube_id for one in some] for some in grouped(facts, 2)] == [["a"], ["b", "b", "b"], ["c", "d"]]
    assert [len(some) for some in grouped([fact(str(n)) for n in range(9)], 8)] == [5, 4]
    assert grouped([], 8) == []


def test_stopped_training_goes_on_and_ends_the_same(engine: MemoryOS, facts: list[MemCube]) -> None:
    with pytest.raises(GateRefused):
        run(engine, facts)
    (whole,) = engine.adapters(SCOPE)
    with pytest.raises(Interrupted):
        run(engine, facts, stop_at(0.5))
    assert files(engine) == [FILE]
    assert engine.adapters(SCOPE) == [whole]
    with pytest.raises(GateRefused):
        run(engine, facts)
    again = engine.adapters(SCOPE)[-1]
    assert again.gate is not None
    assert whole.gate is not None
    assert again.gate["log_likelihood"] == whole.gate["log_likelihood"]
    assert files(engine) == []


def test_nothing_stays_of_what_is_cancelled(engine: MemoryOS, lenient: list[int]) -> None:
    """Neither checkpoint nor report nor adapter; what that had taken the place of is served again."""
    notes = engine.store_many(SCOPE, [{"text": text} for text in (*FACTS, "Ada Finch's dog is a beagle.")])
    before = run(engine, notes, facts=1)["cube_ids"]
    lenient.append(4)
    with pytest.raises(Cancelled):
        run(engine, notes, stop_at(0.9, Cancelled), facts=1, epochs=3)
    states = {info.cube_id: info.state for info in engine.adapters(SCOPE)}
    assert states == dict.fromkeys(before, "published")
    assert len(files(engine)) == 3


def test_forgetting_a_memory_takes_the_checkpoint_with_it(engine: MemoryOS, facts: list[MemCube]) -> None:
    with pytest.raises(Interrupted):
        run(engine, facts, stop_at(0.5))
    engine.forget("default", facts[0].id)
    assert files(engine) == []
    with pytest.raises(NotFound):
        run(engine, facts)


def test_change_during_training_publishes_nothing(engine: MemoryOS, facts: list[MemCube]) -> None:
    def change(done: float) -> None:
        if done > 0.5 and engine.get("default", facts[0].id).version == 1:
            engine.update("default", facts[0].id, text="Ilse Brand's locker code is 9001.")

    with pytest.raises((Conflict, NotFound)):
        run(engine, facts, change)
    assert engine.adapters(SCOPE) == []
    assert files(engine) == []


@pytest.mark.parametrize("text", ["Ok.", "?!", "\u4f60\u597d"])
def test_notes_that_say_nothing_are_refused(engine: MemoryOS, text: str) -> None:
    with pytest.raises(TrainingRefused, match="subject, attribute and value"):
        run(engine, engine.store_many(SCOPE, [{"text": text}]))
    assert files(engine) == []


@pytest.mark.parametrize(
    "options", [{"rank": 0}, {"epoch": 3}, {"payload": "dense"}, {"rate": "fast"}, {"seed": True}, {"ids": ["x"]}]
)
def test_wrong_options_are_refused_before_there_is_a_job(
    engine: MemoryOS, facts: list[MemCube], options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput):
        engine.promote("default", [facts[0].id], to="parametric", options=options)


def test_memory_of_somebody_else_is_not_trained(engine: MemoryOS, facts: list[MemCube]) -> None:
    with pytest.raises(NotFound):
        engine.promote("elsewhere", [facts[0].id], to="parametric")
    with pytest.raises(NotFound):
        engine.parametric.run_promotion(Scope(user_id="v"), {"ids": [facts[0].id], "to": "parametric"}, lambda _: None)
