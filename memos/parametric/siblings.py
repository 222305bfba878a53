"""Fusion of adapters: siblings -> merge -> gate on the facts of all -> served in their place, or a report of why not.

Adapters trained one by one fade beside each other (docs/decisions/019-one-adapter-per-chat.md), so the gate, and not
how a method is meant, decides whether one of them is good enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from memos.config import Settings
from memos.cube import FUSION, Scope
from memos.errors import AdapterRefused, GateRefused
from memos.parametric.adapter import Adapter
from memos.parametric.distil.examples import Lesson, learnable, lesson_of
from memos.parametric.distil.facts import facts_of
from memos.parametric.distil.gate import GateReport, examine
from memos.parametric.distil.graduate import Graduate
from memos.parametric.distil.recipe import Recipe
from memos.parametric.distil.twin import Twin
from memos.parametric.fusion.fuse import fuse
from memos.parametric.tier import ParametricTier
from memos.plaintext.chosen import memories_of
from memos.runtime.host import ModelHost, Serving
from memos.schedule.task import Report
from memos.store.adapters import AdapterRecord
from memos.store.database import Database
from memos.store.lineage import Source

#: Ways of merging, as they are tried: the exact sum, the same cut to the rank of one, what agrees in sign.
METHODS = ("cat", "svd", "ties_svd")


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What one method came to."""

    method: str
    adapter: Adapter
    gate: GateReport


class AdapterFusion:
    """The task. A second run finds what the first one published, and makes nothing."""

    def __init__(self, settings: Settings, database: Database, models: ModelHost, tier: ParametricTier) -> None:
        self._settings = settings
        self._database = database
        self._models = models
        self._tier = tier

    def run(self, scope: Scope, cube_ids: Sequence[str], report: Report) -> dict[str, Any]:
        """Merge adapters and serve the first merger that passes the gate in their place; return its id and report.

        Raises :class:`GateRefused` (none passes: the report of the best is kept, and all are served as before),
        :class:`NotFound`, :class:`Conflict` and :class:`AdapterRefused`.
        """
        serving = self._models.serving()
        for record in self._tier.published(scope, serving.loaded.identity.base):
            if record.parts == tuple(cube_ids):
                return {"cube_id": record.cube_id, "made": False, **(record.gate or {})}
        if len(cube_ids) < 2:
            return {"cube_id": None, "made": False}  # the others were forgotten meanwhile
        records = self._tier.siblings(scope, cube_ids)
        sources = tuple(dict.fromkeys(source for record in records for source in record.sources))
        lesson = self._lesson(scope, sources, serving)
        attempts: list[_Attempt] = []
        for place, method in enumerate(METHODS, 1):
            attempt = self._attempt(scope, records, lesson, serving, method)
            if attempt is not None:
                attempts.append(attempt)
                report(place / (len(METHODS) + 1))
                if attempt.gate.passed:
                    break
        if not attempts:
            raise AdapterRefused(f"no way of merging makes a rank of at most {self._settings.adapter_max_rank}")
        return self._kept(scope, cube_ids, sources, attempts)

    def _attempt(
        self, scope: Scope, records: Sequence[AdapterRecord], lesson: Lesson, serving: Serving, method: str
    ) -> _Attempt | None:
        """Merge in one way and examine it; ``None`` if the rank would be too large."""
        adapters = [one for record in records if isinstance(one := self._tier.load(scope, record), Adapter)]
        try:
            merged = fuse(adapters, [1.0] * len(adapters), method, max_rank=self._settings.adapter_max_rank)
        except AdapterRefused:
            return None
        graduate = Graduate(Twin(serving.loaded), merged)
        return _Attempt(method, merged, examine(serving, graduate, merged, lesson))

    def _lesson(self, scope: Scope, sources: Sequence[Source], serving: Serving) -> Lesson:
        """Return what all of them have to know. Raises :class:`NotFound` and :class:`Conflict`."""
        notes = memories_of(self._database, scope, [cube_id for cube_id, _ in sources])
        facts = learnable(facts_of(notes), serving.loaded, serving.format)
        return lesson_of(facts, serving.loaded, serving.format, Recipe())

    def _kept(
        self, scope: Scope, cube_ids: Sequence[str], sources: Sequence[Source], attempts: Sequence[_Attempt]
    ) -> dict[str, Any]:
        """Publish the last attempt if it passed; else keep the report of the best and raise :class:`GateRefused`."""
        passed = attempts[-1].gate.passed
        best = attempts[-1] if passed else max(attempts, key=lambda one: one.gate.recall)
        tried = {one.method: {"recall": one.gate.recall, "drift": one.gate.drift} for one in attempts}
        provenance = {"source": FUSION, "fused": list(cube_ids), "method": best.method, "tried": tried, "options": {}}
        kept: dict[str, Any] = {"sources": sources, "gate": best.gate.plain, "provenance": provenance}
        if passed:
            cube_id = self._tier.publish(scope, best.adapter, **kept)
            return {**best.gate.plain, "cube_id": cube_id, "made": True, "method": best.method}
        cube_id = self._tier.reject(scope, best.adapter, **kept)
        raise GateRefused(
            f"the adapters are served as before: fused they are not good enough, since {'; '.join(best.gate.reasons)}. "
            f"The report is {cube_id!r}",
            cube_id=cube_id,
        )
