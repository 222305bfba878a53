"""Promotion to the parametric tier: notes -> facts -> examples -> train -> gate -> cube, or a report of why not."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memos.activation.bundle import Bundle, bundle_of, note_of
from memos.config import Settings
from memos.cube import MemCube, Scope
from memos.errors import GateRefused, MemosError, NotFound
from memos.parametric.distil.examples import Lesson, lesson_of
from memos.parametric.distil.facts import facts_of
from memos.parametric.distil.folder import training_folder
from memos.parametric.distil.recipe import Recipe
from memos.parametric.distil.run import Distilled, distil
from memos.runtime.host import ModelHost, Serving
from memos.schedule.executor import Report
from memos.store import namespaces
from memos.store.adapters import AdapterRecord
from memos.store.cubes import CubeRepository
from memos.store.database import Database

if TYPE_CHECKING:
    from memos.parametric.tier import ParametricTier

#: What a payload holds besides options of the training.
_NO_OPTIONS = ("ids", "to", "name")
#: Share of the progress that is left for publication.
PUBLISHING = 0.02


@dataclass(frozen=True, slots=True)
class _Course:
    """What is trained, on what: ``options`` are those that were chosen, ``skipped`` the notes without a fact."""

    lesson: Lesson
    bundle: Bundle
    recipe: Recipe
    options: Mapping[str, Any]
    name: str | None
    skipped: list[str]

    def made(self, record: AdapterRecord) -> bool:
        """Whether a published cube came from the same notes with the same options."""
        same = record.provenance.get("options") == self.options and record.name == self.name
        return same and set(record.sources) == set(self.bundle.sources) and record.payload.value == self.recipe.payload


class ParametricPromotion:
    """The task. Running it twice makes one cube; after a crash it goes on from its checkpoint."""

    def __init__(self, settings: Settings, database: Database, models: ModelHost, tier: ParametricTier) -> None:
        self._home = settings.home
        self._database = database
        self._models = models
        self._tier = tier

    def run(self, scope: Scope, payload: Mapping[str, Any], report: Report) -> dict[str, Any]:
        """Distil the present versions of the notes ``payload["ids"]``; return the cube's id and what the gate found.

        Raises :class:`TrainingRefused` (nothing to learn), :class:`GateRefused` (learnt badly: the report is kept,
        nothing is served), :class:`NotFound` (a note was forgotten), :class:`Conflict` (a note changed meanwhile),
        :class:`AdapterRefused` and :class:`StoreFull`; the notes are never touched. Whatever ends it, other than a
        stop of the process, removes its checkpoint, which holds what the notes say.
        """
        folder = training_folder(self._home, scope, payload["ids"])
        try:
            return self._run(scope, payload, report, folder)
        except MemosError:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _run(self, scope: Scope, payload: Mapping[str, Any], report: Report, folder: Path) -> dict[str, Any]:
        serving = self._models.serving()
        course = self._course(scope, payload, serving)
        for record in self._tier.published(scope, serving.loaded.identity.base, payload["ids"]):
            if course.made(record):
                return {"cube_id": record.cube_id, "made": False, **_told(record.gate or {})}
        distilled = distil(
            serving,
            course.lesson,
            course.bundle,
            course.recipe,
            lambda share: report((1 - PUBLISHING) * share),
            folder,
        )
        cube_id = self._keep(scope, course, distilled)
        shutil.rmtree(folder, ignore_errors=True)
        told = {"seconds": distilled.seconds, "bytes": distilled.trained.bytes, "skipped": course.skipped}
        return {"cube_id": cube_id, "made": True, **_told(distilled.gate.plain), **told}

    def _course(self, scope: Scope, payload: Mapping[str, Any], serving: Serving) -> _Course:
        options = {name: value for name, value in payload.items() if name not in _NO_OPTIONS and value is not None}
        recipe = Recipe.of(options)
        notes = self._notes(scope, payload["ids"])
        lesson = lesson_of(facts_of(notes), serving.loaded, serving.format, recipe)
        learnt = {fact.cube_id for fact in lesson.facts}
        bundle = bundle_of(note_of(cube) for cube in notes if cube.id in learnt)
        skipped = [cube.id for cube in notes if cube.id not in learnt]
        return _Course(lesson, bundle, recipe, options, payload.get("name"), skipped)

    def _notes(self, scope: Scope, ids: Sequence[str]) -> list[MemCube]:
        with self._database.read() as connection:
            namespace = namespaces.find(connection, scope)
            notes = CubeRepository(connection, namespace.id).get(ids, scope) if namespace else {}
        gone = [cube_id for cube_id in ids if cube_id not in notes]
        if gone:
            raise NotFound(f"no memory {gone[0]!r} here; it may have been forgotten")
        return [notes[cube_id] for cube_id in ids]

    def _keep(self, scope: Scope, course: _Course, distilled: Distilled) -> str:
        """Publish what passed the gate; of what did not, keep the report and raise :class:`GateRefused`."""
        gate, progress = distilled.gate, distilled.progress
        kept: dict[str, Any] = {
            "sources": course.bundle.sources,
            "gate": gate.plain,
            "provenance": {
                "source": "promote",
                "options": dict(course.options),
                "recipe": course.recipe.plain,
                "examples": len(course.lesson.trained),
                "epochs": len(progress.losses),
                "losses": progress.losses,
                "seconds": distilled.seconds,
            },
            "name": course.name,
        }
        if gate.passed:
            return self._tier.publish(scope, distilled.trained, **kept)
        cube_id = self._tier.reject(scope, distilled.trained, **kept)
        raise GateRefused(
            f"what was trained is not served: {'; '.join(gate.reasons)}. The memories stay as they are, and the report "
            f"is {cube_id!r}",
            cube_id=cube_id,
        )


def _told(gate: Mapping[str, Any]) -> dict[str, Any]:
    names = ("facts", "recall", "recall_base", "drift", "confused")
    return {name: gate.get(name) for name in names}
