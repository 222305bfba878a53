"""The loop: schedule -> run -> postprocess, over the tokens of all requests at once (continuous batching).

Requests of the bare model, of adapters of any ranks, one or several in a request, behind loaded caches, cartridges or
prompts that others computed: one forward runs them all.

There is no thread of its own. Whoever waits for text runs the next step for everybody, one caller at a time; the others
sleep until there is something for them. A step that fails touches no state, so the next caller runs it again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from memos.activation.kv import KVBlock, KVSource
from memos.activation.miss import KVMiss
from memos.activation.seen import Need
from memos.errors import StoreClosed
from memos.runtime.admission import Admission, PoolUse
from memos.runtime.batch import Batch
from memos.runtime.forward import hidden_states, logits_of
from memos.runtime.loading import LoadedModel
from memos.runtime.packing import Modules, projections
from memos.runtime.pool import PAGE_TOKENS, PagePool, PageShape
from memos.runtime.request import Answer, Generated, Job, Prefill, Request, Scoring, check_tokens
from memos.runtime.retrieval.names import check_retrieval
from memos.runtime.scheduler import Scheduler
from memos.runtime.sequence import Sequence as TokenSequence
from memos.runtime.uses import AdapterUse
from memos.runtime.watching import Watcher

__all__ = ["Generated", "Generation", "Request", "Runtime"]

#: Bytes of the page pool, if nobody says otherwise. On the CPU, pages that were never used take no memory.
POOL_BYTES = 1 << 30


class Generation(Iterator[str]):
    """The pieces of an answer as they are decoded. Closing it, or dropping it, cancels the request."""

    def __init__(self, answer: Answer, pieces: Generator[str, None, None]) -> None:
        self._answer = answer
        self._pieces = pieces

    def __next__(self) -> str:
        """Return the next piece of text, running the model until there is one."""
        return next(self._pieces)

    @property
    def result(self) -> Generated:
        """The answer so far; whole once the pieces are exhausted."""
        return self._answer.result

    def finish(self) -> Generated:
        """Run to the end and return the answer."""
        for _ in self:
            pass
        return self.result

    def close(self) -> None:
        """Cancel what is still to come."""
        self._pieces.close()


class Runtime:
    """Runs one model for any number of threads."""

    def __init__(self, loaded: LoadedModel, pool_bytes: int = POOL_BYTES) -> None:
        self._loaded = loaded
        shape = PageShape.of(loaded.shape, _widths(loaded))
        pool = PagePool(shape, max(pool_bytes // shape.bytes, 1), loaded.device)
        self._scheduler = Scheduler(Admission(pool, Modules.of(loaded.model, loaded.identity.base, shape)))
        self._stepping = False
        self._closed = False
        lock = threading.RLock()
        self._change = threading.Condition(lock)
        #: Whoever runs a step waits here while all that is asked is still being read.
        self._stall = threading.Condition(lock)
        self._scheduler.admission.ahead.on_read = partial(_wake, self._stall)

    # ------------------------------------------------------------ asking

    def generate(self, request: Request) -> Generation:
        """Return the answer to a request, which begins when the first piece is asked for.

        Raises :class:`InvalidInput` and :class:`PromptTooLong` at once. A :class:`KVMiss` of the prefix comes out of
        the iteration, before any text, and ends this request alone.
        """
        request.check(self._loaded)
        answer = Answer(request, self._loaded)
        return Generation(answer, self._pieces(answer))

    def answers(self, requests: Sequence[Request]) -> list[Generated]:
        """Return the answers to many requests, run together.

        Raises as :meth:`generate`: what fails one of them fails all, and cancels the others.
        """
        for request in requests:
            request.check(self._loaded)
        jobs = [Answer(request, self._loaded) for request in requests]
        self._finish(*jobs)
        return [job.result for job in jobs]

    def prefill(self, tokens: Sequence[int], needs: Collection[Need] = (), *, period: int = 0) -> KVBlock:
        """Return the cache of tokens from position 0, in the model's dtype and host memory.

        ``needs`` is what to note of their queries on the way (``KVBlock.seen``), ``period`` after how many the tokens
        repeat, where that is what copying heads are told by. For :attr:`Need.READ` they run a second time behind
        themselves. What the pool cannot hold at once is computed in pieces, unless something is to be noted. Raises
        :class:`InvalidInput` and :class:`PromptTooLong`.
        """
        run = [*tokens, *tokens] if Need.READ in needs else tokens
        check_tokens(run, self._loaded)
        watcher = None
        if needs:
            rotary: Any = self._loaded.model.base_model.rotary_emb
            watcher = Watcher(needs, self._loaded.shape, len(tokens), rotary.inv_freq, period)
        most = self._scheduler.admission.pool.tokens
        if watcher is None and len(tokens) > most > PAGE_TOKENS:
            return self._pieced(tokens, most // 2)
        block = self._filled(run, watcher)
        return block if run is tokens else replace(block.first(len(tokens)), seen=block.seen)

    @property
    def most_noted(self) -> int:
        """The most tokens of which something can be noted while they run; with :attr:`Need.READ`, half as many."""
        return min(self._loaded.context_window, self._scheduler.admission.pool.tokens)

    def logits(
        self,
        tokens: Sequence[int],
        prefix: KVSource | None = None,
        *,
        seam: int = 0,
        adapters: Sequence[AdapterUse] = (),
        retrieval: str | None = None,
    ) -> torch.Tensor:
        """Return float32 logits ``[len(tokens) - prefix.tokens, vocabulary]`` after each token behind the prefix.

        ``seam``, ``adapters`` and ``retrieval`` as in :class:`Request`.
        """
        check_tokens(tokens, self._loaded)
        chosen = check_retrieval(retrieval) if retrieval is not None else None
        sequence = TokenSequence(tokens, self._loaded.shape, prefix=prefix, seam=seam, retrieval=chosen)
        job = Scoring(sequence, adapters=tuple(adapters))
        self._finish(job)
        return torch.cat(job.rows)

    def interleave(self, work: Iterator[None]) -> None:
        """Run work that uses the model to its end, piece by piece: nobody else runs the model meanwhile.

        ``work`` pauses wherever others may have a turn; after each piece, all running requests get their next tokens.
        Raises what the work raises, and :class:`StoreClosed`.
        """
        while self._piece(work):
            pass

    def drop_adapters(self, digests: Iterable[str]) -> None:
        """Forget adapters and cartridges, and all that was computed with them; requests that run with them finish.

        The name of an owner stands for all prompts of theirs.
        """
        with self._change:
            self._scheduler.drop(digests)

    def holds(self, digest: str) -> bool:
        """Return whether the pool holds an adapter or cartridge, whole."""
        with self._change:
            return self._scheduler.admission.holds(digest)

    @property
    def pool(self) -> PoolUse:
        """What the page pool holds."""
        with self._change:
            return self._scheduler.admission.use()

    @property
    def token_seconds(self) -> float:
        """The seconds that a token of a prompt takes, as last measured."""
        return self._scheduler.admission.token_seconds

    @property
    def idle(self) -> bool:
        """Whether no request is running."""
        with self._change:
            return self._scheduler.idle

    def close(self) -> None:
        """Refuse every further step: requests that still run raise :class:`StoreClosed`."""
        with self._change:
            self._closed = True
            self._change.notify_all()
            self._stall.notify()
        self._scheduler.admission.ahead.close()

    # ------------------------------------------------------------ the loop

    def step(self) -> None:
        """Give every running request its next tokens, as far as one forward goes."""
        scheduled = self._schedule()
        if scheduled is None:
            return
        jobs, batch = scheduled
        started = time.perf_counter()
        try:
            rows, logits = self._run(jobs, batch)
        except KVMiss:
            _fail_missed(jobs)
        else:
            self._postprocess(jobs, batch, rows, logits, time.perf_counter() - started)

    def _schedule(self) -> tuple[list[Job], Batch] | None:
        """Let in who may run, and choose the tokens of the next forward; None if that was nothing yet."""
        with self._change:
            if self._closed:
                raise StoreClosed("the model was closed")
            self._scheduler.reap()
            scheduled = self._scheduler.next_batch()
            if scheduled is None and self._scheduler.stalled:
                self._stall.wait()
        now = time.perf_counter()
        for job in scheduled[0] if scheduled is not None else ():
            job.clock.ran = job.clock.ran or now
        return scheduled

    def _run(self, jobs: list[Job], batch: Batch) -> tuple[list[int], torch.Tensor]:
        """Return how many rows of logits each job wants, and those rows, job by job."""
        hidden = hidden_states(self._loaded, batch)
        counts = [job.wanted(part.tokens) for job, part in zip(jobs, batch.parts, strict=True)]
        rows = [
            row
            for part, count in zip(batch.parts, counts, strict=True)
            for row in range(part.first + part.tokens - count, part.first + part.tokens)
        ]
        if not rows:
            return counts, hidden[:0].float().cpu()
        return counts, logits_of(self._loaded, hidden if len(rows) == len(hidden) else hidden[rows])

    def _postprocess(
        self, jobs: list[Job], batch: Batch, counts: list[int], logits: torch.Tensor, seconds: float
    ) -> None:
        """Count what was cached, choose tokens, end what is complete."""
        choices, first = logits.argmax(-1).tolist() if len(logits) else [], 0
        for job, part, count in zip(jobs, batch.parts, counts, strict=True):
            job.sequence.advance(part.tokens)
            if count and job.active:
                job.accept(logits[first : first + count], choices[first + count - 1])
            first += count
            if job.active and not job.sequence.waiting:
                job.complete(batch.pool)
                job.end()
        with self._change:
            self._scheduler.ran(jobs, batch, seconds)

    # ------------------------------------------------------------ prefills

    def _filled(self, tokens: Sequence[int], watcher: Watcher | None = None, prefix: KVBlock | None = None) -> KVBlock:
        """Return the cache of the tokens behind a prefix."""
        job = Prefill(tokens, self._loaded, watcher, prefix)
        self._finish(job)
        if job.block is None:
            raise StoreClosed("the model was closed")
        return job.block

    def _pieced(self, tokens: Sequence[int], piece: int) -> KVBlock:
        """Return the cache of tokens, computed in pieces of which each attends those before it outside the pool."""
        cache = self._filled(tokens[:piece])
        while cache.tokens < len(tokens):
            behind = self._filled(tokens[: cache.tokens + piece], prefix=cache)
            cache = KVBlock(cache.shape, torch.cat([cache.data, behind.data], 3))
        return cache

    # ------------------------------------------------------------ turns

    def _pieces(self, answer: Answer) -> Generator[str, None, None]:
        """Yield what comes, until the answer is done. Leaving early cancels it."""
        with self._enrolled(answer):
            done = False
            while not done:
                done = self._await_news(answer)
                while answer.pieces:
                    yield answer.pieces.popleft()

    def _finish(self, *jobs: Job) -> None:
        """Run jobs to their end, together."""
        with self._enrolled(*jobs):
            for job in jobs:
                while not self._await_news(job):
                    job.hush()

    @contextmanager
    def _enrolled(self, *jobs: Job) -> Iterator[None]:
        try:
            with self._change:
                for job in jobs:
                    self._scheduler.enrol(job)
                self._stall.notify()
            yield
        finally:
            for job in jobs:
                job.end()
            with self._change:
                if not self._stepping:  # else a forward may be writing their pages: they are taken out after that
                    for job in jobs:
                        self._scheduler.leave(job)

    def _await_news(self, job: Job) -> bool:
        """Run steps, or sleep while another caller does, until there is something for ``job``; return if it is done.

        Raises what its end is an error for.
        """
        while self._takes_turn(job):
            try:
                self.step()
            finally:
                self._release()
        if job.error is not None:
            raise job.error
        return job.done  # read before its pieces are taken, so that none can come in between

    def _piece(self, work: Iterator[None]) -> bool:
        """Run the next piece of some work once nobody runs the model, then a step for all; return if there was one."""
        with self._change:
            self._change.wait_for(lambda: self._closed or not self._stepping)
            if self._closed:
                raise StoreClosed("the model was closed")
            self._stepping = True
        try:
            more = next(work, work) is None
            if more and self._may_step():
                self.step()
            return more
        finally:
            self._release()

    def _may_step(self) -> bool:
        """Whether others have something to run that waits for no reading."""
        with self._change:
            return not self._closed and not self._scheduler.idle and not self._scheduler.stalled

    def _release(self) -> None:
        """Let another caller run steps."""
        with self._change:
            self._scheduler.reap()
            self._stepping = False
            self._change.notify_all()

    def _takes_turn(self, job: Job) -> bool:
        """Return whether the caller must run the next step, once nobody else does; False when there is news."""
        with self._change:
            self._change.wait_for(lambda: job.news or self._closed or not self._stepping)
            if self._closed:
                raise StoreClosed("the model was closed")
            if job.news:
                return False
            self._stepping = True
            return True


def _wake(stall: threading.Condition) -> None:
    with stall:
        stall.notify()


def _widths(loaded: LoadedModel) -> list[int]:
    """Return the widths of all rows that an adapter of the model can have."""
    return sorted({width for one in projections(loaded.model) for width in (one.in_features, one.out_features)})


def _fail_missed(jobs: list[Job]) -> None:
    """End the requests whose prefix could not be read; the others lost a step."""
    for job in jobs:
        if job.sequence.miss is not None:
            job.error = job.sequence.miss
