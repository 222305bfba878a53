"""The loop: schedule -> run -> postprocess, over the tokens of all requests at once (continuous batching).

There is no thread of its own. Whoever waits for text runs the next step for everybody, one caller at a time; the
others sleep until there is something for them. A step that fails touches no state, so the next caller runs it again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing

import torch

from memos.activation.kv import KVBlock, KVSource
from memos.activation.miss import KVMiss
from memos.errors import StoreClosed
from memos.runtime.attention import Part
from memos.runtime.forward import hidden_states, logits_of
from memos.runtime.loading import LoadedModel
from memos.runtime.request import Answer, Generated, Job, Request, check_tokens
from memos.runtime.sequence import Sequence as TokenSequence

__all__ = ["Generated", "Generation", "Request", "Runtime"]

#: Tokens in one forward: long prompts run in pieces of this size, between which other requests get their tokens.
STEP_TOKENS = 512

Scheduled = tuple[Job, Part]


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

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._jobs: list[Job] = []
        self._stepping = False
        self._closed = False
        self._change = threading.Condition()

    # ------------------------------------------------------------ asking

    def generate(self, request: Request) -> Generation:
        """Return the answer to a request, which begins when the first piece is asked for.

        Raises :class:`InvalidInput` and :class:`PromptTooLong` at once. A :class:`KVMiss` of the prefix comes out of
        the iteration, before any text, and ends this request alone.
        """
        request.check(self._loaded)
        answer = Answer(request, self._loaded)
        return Generation(answer, self._pieces(answer))

    def prefill(self, tokens: Sequence[int]) -> KVBlock:
        """Return the cache of tokens from position 0, in the model's dtype and host memory.

        Raises :class:`InvalidInput` and :class:`PromptTooLong`.
        """
        job = Job(self._sequence(tokens))
        with closing(self._turns(job)) as turns:
            deque(turns, maxlen=0)
        return job.sequence.block()

    def logits(self, tokens: Sequence[int], prefix: KVSource | None = None, *, seam: int = 0) -> torch.Tensor:
        """Return float32 logits ``[len(tokens) - prefix.tokens, vocabulary]`` after each token behind the prefix.

        ``seam`` as in :class:`Request`.
        """
        sequence, rows = self._sequence(tokens, prefix, seam), []
        while sequence.waiting:
            part = Part(sequence, 0, sequence.step(STEP_TOKENS))
            rows.append(logits_of(self._loaded, hidden_states(self._loaded, [part])))
            sequence.advance(part.tokens)
        return torch.cat(rows)

    @property
    def idle(self) -> bool:
        """Whether no request is running."""
        return not self._jobs

    def close(self) -> None:
        """Refuse every further step: requests that still run raise :class:`StoreClosed`."""
        with self._change:
            self._closed = True
            self._change.notify_all()

    # ------------------------------------------------------------ the loop

    def step(self) -> None:
        """Give every running request its next tokens, as far as one forward goes."""
        batch = self._schedule()
        try:
            logits = self._run(batch)
        except KVMiss:
            _fail_missed(batch)
        else:
            self._postprocess(batch, logits)

    def _schedule(self) -> list[Scheduled]:
        """Choose the tokens of the next forward: requests that decode first, then prompts in the order they came."""
        with self._change:
            active = [job for job in self._jobs if job.active]
        active.sort(key=lambda job: job.sequence.waiting > 1)
        batch, used = [], 0
        for job in active:
            if count := job.sequence.step(STEP_TOKENS - used):
                batch.append((job, Part(job.sequence, used, count)))
                job.clock.ran = job.clock.ran or time.perf_counter()
                used += count
        return batch

    def _run(self, batch: list[Scheduled]) -> torch.Tensor:
        """Return the logits of the requests whose last known token ran, in their order."""
        hidden = hidden_states(self._loaded, [part for _, part in batch])
        last = [part.first + part.tokens - 1 for job, part in batch if job.completed_by(part.tokens)]
        return logits_of(self._loaded, hidden[last]) if last else hidden[:0]

    def _postprocess(self, batch: list[Scheduled], logits: torch.Tensor) -> None:
        """Count what was cached, choose tokens, end what is complete."""
        rows = iter(logits)
        for job, part in batch:
            row = next(rows) if job.completed_by(part.tokens) else None
            job.sequence.advance(part.tokens)
            if row is not None:
                job.accept(row)
            elif not job.sequence.waiting:
                job.end()

    # ------------------------------------------------------------ turns

    def _pieces(self, answer: Answer) -> Generator[str, None, None]:
        with closing(self._turns(answer)) as turns:
            for _ in turns:
                while answer.pieces:
                    yield answer.pieces.popleft()

    def _turns(self, job: Job) -> Generator[None, None, None]:
        """Enrol a job; yield whenever it has news, until it is done. Leaving early cancels it."""
        with self._change:
            self._jobs.append(job)
        try:
            done = False
            while not done:
                self._await_news(job)
                if job.error is not None:
                    raise job.error
                done = job.done  # read before the caller takes its pieces, so that none can come in between
                yield
        finally:
            with self._change:
                self._jobs.remove(job)
            job.end()

    def _await_news(self, job: Job) -> None:
        """Run steps, or sleep while another caller does, until there is something for ``job``."""
        while self._takes_turn(job):
            try:
                self.step()
            finally:
                with self._change:
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

    def _sequence(self, tokens: Sequence[int], prefix: KVSource | None = None, seam: int = 0) -> TokenSequence:
        check_tokens(tokens, self._loaded)
        return TokenSequence(tokens, self._loaded.shape, self._loaded.device, prefix=prefix, seam=seam)


def _fail_missed(batch: list[Scheduled]) -> None:
    """End the requests whose prefix could not be read; the others lost a step."""
    for job, part in batch:
        if part.sequence.miss is not None:
            job.error = part.sequence.miss
