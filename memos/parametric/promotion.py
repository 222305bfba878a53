"""Promotion to the parametric tier: notes -> facts -> examples -> train -> gate -> cube, or a report of why not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from memos.activation.bundle import Bundle, bundle_of, note_of
from memos.config import Settings
from memos.cube import MemCube, Scope
from memos.errors import GateRefused, MemosError
from memos.parametric.distil.examples import Lesson, learnable, lesson_of
from memos.parametric.distil.facts import Fact, facts_of
from memos.parametric.distil.folder import training_folder
from memos.parametric.distil.recipe import Recipe
from memos.parametric.distil.run import Distilled, distil
from memos.plaintext.chosen import memories_of
from memos.runtime.host import ModelHost, Serving
from memos.schedule.task import Cancelled, Report
from memos.store.adapters import AdapterRecord
from memos.store.database import Database

if TYPE_CHECKING:
    from memos.parametric.tier import ParametricTier

#: What a payload holds besides options of the training.
_NO_OPTIONS = ("ids", "to", "name")
#: Share of the progress that is left for publication.
PUBLISHING = 0.02


@dataclass(frozen=True, slots=True)
class _Course:
    """What is trained, on what: ``options`` are those that were chosen."""

    lesson: Lesson
    bundle: Bundle
    recipe: Recipe
    options: Mapping[str, Any]
    name: str | None

    def made(self, record: AdapterRecord) -> bool:
        """Whether a published cube came from the same notes with the same options."""
        same = record.provenance.get("options") == self.options and record.name == self.name
        return same and set(record.sources) == set(self.bundle.sources) and record.payload.value == self.recipe.payload


class ParametricPromotion:
    """The task. Running it twice makes the same cubes; after a crash it goes on from its checkpoint."""

    def __init__(self, settings: Settings, database: Database, models: ModelHost, tier: ParametricTier) -> None:
        self._home = settings.home
        self._database = database
        self._models = models
        self._tier = tier

    def run(self, scope: Scope, payload: Mapping[str, Any], report: Report) -> dict[str, Any]:
        """Distil the present versions of the notes ``payload["ids"]``; return the cubes' ids and what the gate found.

        Few facts to an adapter are learnt better and faster than many: ``recipe.facts`` of them, and as many adapters
        as it takes. Raises :class:`TrainingRefused` (nothing to learn), :class:`GateRefused` (all of it learnt badly:
        the reports are kept, nothing is served), :class:`NotFound` (a note was forgotten), :class:`Conflict` (a note
        changed meanwhile), :class:`AdapterRefused` and :class:`StoreFull`; the notes are never touched, and what was
        published before stays. Whatever ends a training, other than a stop of the process, removes its checkpoint,
        which holds what the notes say. Of a job that is cancelled nothing stays.
        """
        serving = self._models.serving()
        notes = memories_of(self._database, scope, payload["ids"])
        courses = list(_courses(notes, payload, serving))
        made: list[dict[str, Any]] = []
        refused: list[GateRefused] = []
        try:
            for place, course in enumerate(courses):
                try:
                    made.append(self._made(scope, course, serving, partial(_tell, report, place, len(courses))))
                except GateRefused as error:
                    refused.append(error)
        except Cancelled:
            reports = [error.extra["cube_id"] for error in refused]
            self._tier.withdraw(scope, [*(one["cube_id"] for one in made if one["made"]), *reports])
            raise
        if not made:
            raise refused[0]
        learnt = {cube_id for course in courses for cube_id, _ in course.bundle.sources}
        skipped = [cube.id for cube in notes if cube.id not in learnt]
        return {**_told(made), "skipped": skipped, "refused": [error.extra["cube_id"] for error in refused]}

    def _made(self, scope: Scope, course: _Course, serving: Serving, report: Report) -> dict[str, Any]:
        """Train and publish one adapter or cartridge, unless it is there already."""
        ids = [cube_id for cube_id, _ in course.bundle.sources]
        for record in self._tier.published(scope, serving.loaded.identity.base, ids):
            if course.made(record):
                return {"cube_id": record.cube_id, "made": False, "seconds": 0.0, "bytes": 0, **(record.gate or {})}
        folder = training_folder(self._home, scope, ids)
        try:
            distilled = distil(serving, course.lesson, course.bundle, course.recipe, report, folder)
            cube_id = self._keep(scope, course, distilled)
        except (MemosError, Cancelled):
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)
        spent = {"seconds": distilled.seconds, "bytes": distilled.trained.bytes}
        return {**distilled.gate.plain, "cube_id": cube_id, "made": True, **spent}

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


def _courses(notes: Sequence[MemCube], payload: Mapping[str, Any], serving: Serving) -> Iterator[_Course]:
    """Yield what is trained into one adapter each. Raises :class:`TrainingRefused` if there is nothing."""
    options = {name: value for name, value in payload.items() if name not in _NO_OPTIONS and value is not None}
    recipe, name = Recipe.of(options), payload.get("name")
    groups = grouped(learnable(facts_of(notes), serving.loaded, serving.format), recipe.facts) or [[]]
    for place, facts in enumerate(groups, 1):
        lesson = lesson_of(facts, serving.loaded, serving.format, recipe)
        learnt = {fact.cube_id for fact in lesson.facts}
        bundle = bundle_of(note_of(cube) for cube in notes if cube.id in learnt)
        own = f"{name} {place}" if name is not None and len(groups) > 1 else name
        yield _Course(lesson, bundle, recipe, options, own)


def grouped(facts: Sequence[Fact], most: int) -> list[list[Fact]]:
    """Return facts in groups of about equal size, ``most`` at most unless one note has more: notes stay whole."""
    notes: dict[str, list[Fact]] = {}
    for fact in facts:
        notes.setdefault(fact.cube_id, []).append(fact)
    size = -(-len(facts) // max(1, -(-len(facts) // most)))
    groups: list[list[Fact]] = []
    for some in notes.values():
        if not groups or len(groups[-1]) + len(some) > size:
            groups.append([])
        groups[-1] += some
    return groups


def _tell(report: Report, place: int, count: int, share: float) -> None:
    """Report the progress of one of several trainings."""
    report((place + (1 - PUBLISHING) * share) / count)


def _told(made: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what is told of everything that was made: means over its facts, the worst of what changed."""
    facts = sum(one["facts"] for one in made)
    means = {name: sum(one[name] * one["facts"] for one in made) / facts for name in ("recall", "recall_base")}
    worst = {name: max(one[name] for one in made) for name in ("drift", "confused")}
    spent = {name: sum(one[name] for one in made) for name in ("seconds", "bytes")}
    ids = [one["cube_id"] for one in made]
    return {"cube_id": ids[0], "cube_ids": ids, "made": any(one["made"] for one in made), "facts": facts} | (
        means | worst | spent
    )
