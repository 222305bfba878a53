"""Which tokens the next forward runs (continuous batching; chunked prefill beside decodes, Sarathi: arXiv:2403.02310).

admit who may run -> a token for each that decodes -> pieces of prompts, as far as the forward goes
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from memos.runtime.admission import Admission, Lora
from memos.runtime.batch import Batch, order
from memos.runtime.fairness import WRITTEN, FairQueue
from memos.runtime.request import Job
from memos_kernels import AdapterStep

#: Tokens in one forward; with others decoding, a prompt runs in smaller pieces, so that they wait no longer than that.
STEP_TOKENS, BESIDE_TOKENS = 512, 128
#: Requests that run at once.
MOST_RUNNING = 256
#: How many waiting requests are looked at, and how often one may be passed by smaller ones before none is.
LOOK, PASSES = 32, 64
#: Waiting requests whose adapters are read ahead.
AHEAD = 8


class Scheduler:
    """Requests that wait and requests that run. Not safe for several threads."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.running: list[Job] = []
        self._queue = FairQueue()
        self._passed: dict[int, int] = {}
        self._step: tuple[tuple[tuple[Job, int], ...], AdapterStep | None] = ((), None)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to run."""
        return not self.running and not len(self._queue)

    @property
    def stalled(self) -> bool:
        """Whether nothing can run before something is read, or asked."""
        waiting = self._queue.fair_order()
        return not self.running and self.admission.ahead.busy and all(job.active for job in waiting)

    def enrol(self, job: Job) -> None:
        """Let a job wait for its turn. Raises :class:`InvalidInput` if it could never run."""
        self.admission.check(job)
        self._queue.push(job)

    def leave(self, job: Job) -> None:
        """Take a job out, running or not, with everything it holds."""
        self._queue.discard(job)
        self._passed.pop(id(job), None)
        if job in self.running:
            self.running.remove(job)
            self._queue.finish(job)
            self.admission.leave(job)
            self._step = ((), None)  # which would keep its prefix alive, and what is made of that

    def next_batch(self) -> tuple[list[Job], Batch] | None:
        """Return the jobs of the next forward and what it runs, in one order; None if no job has anything to run."""
        self._admit()
        chosen = self._chosen()
        if not chosen:
            return None
        by_sequence = {id(job.sequence): job for job, _ in chosen}
        parts = order([(job.sequence, count) for job, count in chosen])
        jobs = [by_sequence[id(part.sequence)] for part in parts]
        adapters = self._adapters(jobs, [part.tokens for part in parts])
        return jobs, Batch(self.admission.pool, parts, adapters)

    def drop(self, digests: Iterable[str]) -> None:
        """Forget adapters and cartridges; what runs with them goes on, and nobody shares it."""
        gone = set(digests)
        self.admission.drop(gone)
        for job in (*self.running, *self._queue.fair_order()):
            if job.made_with & gone:
                job.blocks = []

    def reap(self) -> None:
        """Take out all jobs that are over."""
        for job in [job for job in (*self.running, *self._queue.fair_order()) if not job.active]:
            self.leave(job)

    def ran(self, jobs: list[Job], batch: Batch, seconds: float) -> None:
        """Account for a forward: what it cost whom, and what others can share of it from now on."""
        self.admission.measured(len(batch.tokens), seconds)
        for job in jobs:
            if job.sequence.waiting <= 1:
                self._queue.charge(job, WRITTEN)
            if job.blocks:
                self.admission.publish(job)

    def _admit(self) -> None:
        waiting = [job for _, job in zip(range(LOOK), self._queue.fair_order(), strict=False)]
        for job in waiting[:AHEAD]:
            self.admission.prepare(job)
        passed: list[Job] = []
        for job in waiting:
            if len(self.running) >= MOST_RUNNING:
                break
            if job.active and self.admission.admit(job):
                self._start(job)
                for one in passed:
                    self._passed[id(one)] = self._passed.get(id(one), 0) + 1
            elif job.active and self.admission.ready(job):  # it does not fit
                passed.append(job)
            if any(self._passed.get(id(one), 0) >= PASSES for one in passed):
                break
        still = [job for job in waiting if job.active and not job.admitted]  # what failed is read anew for others
        self.admission.ahead.keep(
            {use.digest for job in still for use in job.adapters}
            | {job.cartridge.digest for job in still if job.cartridge is not None}
        )

    def _start(self, job: Job) -> None:
        self._queue.start(job)
        self._passed.pop(id(job), None)
        self.running.append(job)

    def _chosen(self) -> list[tuple[Job, int]]:
        """Return who runs how many tokens."""
        active = [job for job in self.running if job.active]
        decoding = [job for job in active if job.sequence.waiting == 1]
        left = STEP_TOKENS if not decoding else BESIDE_TOKENS
        chosen = [(job, 1) for job in decoding]
        for job in active:
            if job.sequence.waiting > 1 and (count := job.sequence.step(left)):
                chosen.append((job, count))
                left -= count
        return chosen

    def _adapters(self, jobs: list[Job], counts: list[int]) -> AdapterStep | None:
        """Return the adapters of a forward; those of the last one if it ran the same rows."""
        key = tuple(zip(jobs, counts, strict=True))
        if self._step[0] != key:
            self._step = key, self._made(jobs, counts)
        return self._step[1]

    def _made(self, jobs: list[Job], counts: list[int]) -> AdapterStep | None:
        loras: dict[int, int] = {}
        found: list[Lora] = []
        uses: list[list[tuple[int, float]]] = []
        for job, count in zip(jobs, counts, strict=True):
            mine = []
            for lora, use in zip(job.loras, job.adapters, strict=True):
                if id(lora) not in loras and isinstance(lora, Lora):
                    loras[id(lora)] = len(found)
                    found.append(lora)
                mine.append((loras[id(lora)], use.weight))
            uses += [mine] * count
        if not found:
            return None
        pages = _stacked([lora.pages for lora in found])
        places = _stacked([lora.places for lora in found])
        ranks = np.stack([lora.ranks for lora in found])
        return AdapterStep(pages, places, ranks, self.admission.modules.chunks, self.admission.pool.shape.slots, uses)


def _stacked(arrays: list[np.ndarray]) -> np.ndarray:
    """Stack int32 arrays that differ in their last dimension, filled up with zeros."""
    result = np.zeros((len(arrays), *arrays[0].shape[:-1], max(array.shape[-1] for array in arrays)), np.int32)
    for at, array in enumerate(arrays):
        result[at, ..., : array.shape[-1]] = array
    return result
