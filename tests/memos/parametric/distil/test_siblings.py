"""Adapters become one where the gate lets it pass, and are served as before where not."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from memos.config import Settings
from memos.cube import MemCube
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.errors import AdapterRefused, Conflict, GateRefused, InvalidInput, NotFound
from memos.parametric import siblings as siblings_module
from memos.parametric.distil import run as run_module
from memos.parametric.distil.examples import Lesson
from memos.parametric.distil.gate import GateReport, examine
from memos.parametric.distil.graduate import Graduate
from memos.parametric.distil.lora import LoraStudent
from memos.parametric.distil.recipe import Recipe
from memos.parametric.distil.trie import packs
from memos.parametric.distil.twin import Twin
from memos.parametric.siblings import METHODS
from memos.runtime.host import ModelHost, Serving
from memos.store.jobs import FINAL
from memos.store.scoped import unfinished_jobs
from tests.memos.parametric.distil.quick import FACTS, QUICK, SCOPE


@pytest.fixture
def verdicts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Let every training pass its gate, and mergers as the list says, in turn: reasons, none to pass."""
    given: list[tuple[str, ...]] = []
    monkeypatch.setattr(run_module, "examine", lambda *asked: replace(examine(*asked), reasons=()))

    def verdict(*asked: Any) -> GateReport:
        return replace(examine(*asked), reasons=given.pop(0))

    monkeypatch.setattr(siblings_module, "examine", verdict)
    return given


@pytest.fixture
def notes(engine: MemoryOS) -> list[MemCube]:
    return engine.store_many(SCOPE, [{"text": text} for text in FACTS])


@pytest.fixture
def parts(engine: MemoryOS, notes: list[MemCube], verdicts: list[tuple[str, ...]]) -> list[str]:
    """Two published adapters of one fact each."""
    payload = {**QUICK, "facts": 1, "ids": [note.id for note in notes], "to": "parametric"}
    made = engine.parametric.run_promotion(SCOPE, payload, lambda _: None)
    ids: list[str] = made["cube_ids"]
    return ids


def fuse(engine: MemoryOS, ids: list[str]) -> dict[str, Any]:
    return engine.parametric.run_fusion(SCOPE, {"ids": ids}, lambda _: None)


def states(engine: MemoryOS) -> dict[str, str]:
    return {one.cube_id: one.state for one in engine.adapters(SCOPE)}


def test_one_is_served_in_the_place_of_several(
    engine: MemoryOS, notes: list[MemCube], parts: list[str], verdicts: list[tuple[str, ...]]
) -> None:
    verdicts += [()]
    made = fuse(engine, parts)
    assert (made["made"], made["method"], made["facts"]) == (True, "cat", 2)
    assert states(engine) == {parts[0]: "superseded", parts[1]: "superseded", made["cube_id"]: "published"}
    record = engine.adapter("default", made["cube_id"])
    assert {parent.cube_id for parent in record.parents} == {note.id for note in notes}
    assert record.rank == 4
    assert record.provenance["fused"] == parts
    assert [cube.id for cube in engine.expand("default", made["cube_id"])] == [note.id for note in notes]
    assert fuse(engine, parts)["made"] is False  # a second run
    assert engine.rollback_adapter("default", made["cube_id"]).cube_id == parts[0]
    assert states(engine) == {parts[0]: "published", parts[1]: "published", made["cube_id"]: "superseded"}
    assert engine.rollback_adapter("default", made["cube_id"]).cube_id == made["cube_id"]
    assert states(engine) == {parts[0]: "superseded", parts[1]: "superseded", made["cube_id"]: "published"}


def test_first_method_that_passes_is_taken(engine: MemoryOS, parts: list[str], verdicts: list[tuple[str, ...]]) -> None:
    verdicts += [("too little",), ()]
    made = fuse(engine, parts)
    assert made["method"] == METHODS[1] == "svd"
    assert engine.adapter("default", made["cube_id"]).rank == 2


def test_refused_fusion_is_a_report_and_changes_nothing(
    engine: MemoryOS, parts: list[str], verdicts: list[tuple[str, ...]]
) -> None:
    verdicts += [("too little",)] * len(METHODS)
    with pytest.raises(GateRefused, match="too little") as refusal:
        fuse(engine, parts)
    report = refusal.value.extra["cube_id"]
    assert states(engine) == {parts[0]: "published", parts[1]: "published", report: "rejected"}
    tried = engine.adapter("default", report).provenance["tried"]
    assert tuple(tried) == METHODS


def test_rank_that_is_too_large_leaves_the_other_methods(
    engine: MemoryOS, parts: list[str], verdicts: list[tuple[str, ...]]
) -> None:
    verdicts += [()]
    object.__setattr__(engine.settings, "adapter_max_rank", 3)
    assert fuse(engine, parts)["method"] == "svd"


def test_no_rank_is_small_enough(engine: MemoryOS, parts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(siblings_module, "METHODS", ("cat",))
    object.__setattr__(engine.settings, "adapter_max_rank", 3)
    with pytest.raises(AdapterRefused, match="at most 3"):
        fuse(engine, parts)


def test_forgotten_memory_gives_the_others_back(
    engine: MemoryOS, notes: list[MemCube], parts: list[str], verdicts: list[tuple[str, ...]]
) -> None:
    verdicts += [()]
    fuse(engine, parts)
    receipt = engine.forget("default", notes[0].id)
    assert receipt.removed["adapters"] == 2
    assert states(engine) == {parts[1]: "published"}
    with engine.database.read() as connection:
        assert unfinished_jobs(connection) == []  # nothing is left of the first to be trained again


def test_changed_memory_is_trained_again_alone(
    engine: MemoryOS, notes: list[MemCube], parts: list[str], verdicts: list[tuple[str, ...]]
) -> None:
    verdicts += [()]
    fuse(engine, parts)
    engine.update("default", notes[0].id, text="Ilse Brand's locker code is 4472.")
    assert states(engine) == {parts[1]: "published"}
    (job,) = [job for job in engine.jobs(SCOPE) if job.task == "retrain"]
    assert job.state not in FINAL


def test_what_cannot_be_fused(engine: MemoryOS, parts: list[str], verdicts: list[tuple[str, ...]]) -> None:
    job = engine.fuse_adapters("default", parts)
    assert job.task == "fuse_adapters"
    for wrong in (parts[:1], [parts[0]] * 2, "x", 3, [1, 2]):
        with pytest.raises(InvalidInput):
            engine.fuse_adapters("default", wrong)
    with pytest.raises(NotFound):
        engine.fuse_adapters("default", parts, user_id="v")
    with pytest.raises(NotFound):
        engine.fuse_adapters("other", parts)
    assert fuse(engine, parts[:1]) == {"cube_id": None, "made": False}
    verdicts += [()]
    fuse(engine, parts)
    with pytest.raises(Conflict, match="is superseded"):
        engine.fuse_adapters("default", parts)


def test_graduate_is_what_the_student_was(tiny: Serving, lesson: Lesson, small: Recipe) -> None:
    student = LoraStudent(Twin(tiny.loaded), small, tiny.loaded.identity.base)
    with torch.no_grad():
        for number, parameter in enumerate(student.parameters.values()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * 0.1)
    graduate = Graduate(Twin(tiny.loaded), student.finish())
    ((_, packed),) = packs([one.tokens for one in lesson.held[:2]], 10_000)
    with torch.no_grad():
        assert torch.allclose(graduate.hidden(packed), student.hidden(packed), atol=1e-5)
        assert torch.equal(graduate.base_hidden(packed), student.base_hidden(packed))
        assert not torch.allclose(graduate.hidden(packed), graduate.base_hidden(packed), atol=1e-3)


@pytest.mark.soak  # it trains for minutes
@pytest.mark.timeout(1_800)
def test_two_adapters_of_the_bundled_model(data_folder: Path, embedder: Embedder, models: ModelHost) -> None:
    """Either the gate lets their sum pass, and it knows what both know; or both are served as before."""
    with MemoryOS(Settings(home=data_folder), embedder, models) as engine:
        notes = engine.store_many(SCOPE, [{"text": FACTS[0]}, {"text": "Tomo Reyes's home town is Tarnwick."}])
        jobs = [engine.promote("default", [note.id], to="parametric") for note in notes]
        parts = [str(finished(engine, job.id).result["cube_id"]) for job in jobs]
        job = finished(engine, engine.fuse_adapters("default", parts).id)
        report = next(one for one in engine.adapters(SCOPE) if one.cube_id not in parts)
        assert report.gate is not None
        assert (report.state == "published") == report.gate["passed"] == (job.error is None)
        assert {states(engine)[part] for part in parts} == {"superseded" if job.error is None else "published"}


def finished(engine: MemoryOS, job_id: str) -> Any:
    while (job := engine.job("default", job_id)).state not in FINAL:
        time.sleep(0.1)
    return job
