"""What is asked of the runtime, what it answers, and the state in between."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence as Many
from dataclasses import dataclass, field

import torch

from memos.activation.kv import KVSource
from memos.errors import InvalidInput, MemosError, PromptTooLong
from memos.runtime.loading import LoadedModel
from memos.runtime.sampling import Sampler, Sampling
from memos.runtime.sequence import Sequence
from memos.runtime.text import TextStream

GREEDY = Sampling()


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt to go on with.

    ``prefix`` is the cache of the first ``prefix.tokens`` tokens, which the caller vouches for. The answer ends with a
    token that ends a text, before one of the ``stop`` strings, or after ``max_tokens``. ``seam`` is where a
    prefix would have ended that has to be computed instead (:class:`~memos.runtime.sequence.Sequence`).
    """

    tokens: tuple[int, ...]
    prefix: KVSource | None = None
    sampling: Sampling = GREEDY
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    seam: int = 0

    def check(self, loaded: LoadedModel) -> None:
        """Raise :class:`InvalidInput`, or :class:`PromptTooLong` where no room is left for an answer."""
        if len(self.tokens) >= loaded.context_window:
            raise PromptTooLong(
                f"the prompt has {len(self.tokens)} tokens; {loaded.name} takes {loaded.context_window - 1} at most"
            )
        check_tokens(self.tokens, loaded)
        if self.max_tokens < 1:
            raise InvalidInput(f"max_tokens must be at least 1, not {self.max_tokens}")
        if not all(self.stop):
            raise InvalidInput("stop strings must not be empty")


@dataclass(frozen=True, slots=True)
class Generated:
    """An answer.

    ``finish_reason`` is ``stop`` (a stop string or the end of the text), ``length``, or ``cancelled``. Times are in
    milliseconds: ``queue_ms`` until the first forward began, ``prefill_ms`` from there to the first token,
    ``first_token_ms`` and ``total_ms`` from the request on.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: str
    prompt_tokens: int
    reused_tokens: int
    queue_ms: float
    prefill_ms: float
    first_token_ms: float
    total_ms: float


@dataclass(slots=True)
class Clock:
    """When a request came, first ran, had its first token and ended, in seconds of ``time.perf_counter``."""

    came: float = field(default_factory=time.perf_counter)
    ran: float | None = None
    first: float | None = None
    ended: float | None = None


class Job:
    """A sequence in the loop, done when its cache is full."""

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        self.clock = Clock()
        self.error: Exception | None = None
        self.done = False

    @property
    def active(self) -> bool:
        """Whether there is anything to run for it."""
        return not self.done and self.error is None

    @property
    def news(self) -> bool:
        """Whether its caller has something to take."""
        return not self.active

    def completed_by(self, count: int) -> bool:
        """Whether its next token can be chosen, and is wanted, once ``count`` more tokens ran."""
        return False

    def accept(self, logits: torch.Tensor) -> None:
        """Choose the next token."""

    def end(self) -> None:
        """Run nothing more for it."""
        self.done, self.clock.ended = True, self.clock.ended or time.perf_counter()


class Answer(Job):
    """A sequence that is continued until something ends it."""

    def __init__(self, request: Request, loaded: LoadedModel) -> None:
        self._prompt = len(request.tokens)
        self._room = min(request.max_tokens, loaded.context_window - self._prompt)
        super().__init__(
            Sequence(
                request.tokens,
                loaded.shape,
                loaded.device,
                prefix=request.prefix,
                growth=self._room,
                seam=request.seam,
            )
        )
        self.pieces: deque[str] = deque()
        self._finish_reason = "cancelled"
        self._sampler = Sampler(request.sampling)
        self._stream = TextStream(loaded.tokenizer, request.stop)
        self._eos = loaded.eos_ids
        self._text: list[str] = []

    @property
    def news(self) -> bool:
        """Whether there is text to take, or nothing more will come."""
        return bool(self.pieces) or super().news

    def completed_by(self, count: int) -> bool:
        """Whether ``count`` is all that waits."""
        return self.sequence.waiting == count

    def accept(self, logits: torch.Tensor) -> None:
        """Choose the next token from float32 logits ``[vocabulary]``; end if it ends the answer."""
        if not logits.isfinite().all():
            self.error = MemosError("the model computed values that are not finite: use float32 or bfloat16")
            return
        token = self._sampler.choose(logits)
        self.clock.first = self.clock.first or time.perf_counter()
        if token in self._eos:
            self._finish("stop")
            return
        self.sequence.tokens.append(token)
        self._show(self._stream.push(token))
        if self._stream.stopped:
            self._finish("stop")
        elif len(self.sequence.tokens) - self._prompt == self._room:
            self._finish("length")

    @property
    def result(self) -> Generated:
        """The answer so far."""
        clock = self.clock
        ended = clock.ended or time.perf_counter()
        ran = clock.ran or ended
        first = clock.first or ended
        return Generated(
            text="".join(self._text),
            tokens=tuple(self.sequence.tokens[self._prompt :]),
            finish_reason=self._finish_reason,
            prompt_tokens=self._prompt,
            reused_tokens=self.sequence.reused,
            queue_ms=(ran - clock.came) * 1e3,
            prefill_ms=(first - ran) * 1e3,
            first_token_ms=(first - clock.came) * 1e3,
            total_ms=(ended - clock.came) * 1e3,
        )

    def _finish(self, reason: str) -> None:
        if not self._stream.stopped:
            self._show(self._stream.flush())
        self._finish_reason = "stop" if self._stream.stopped else reason
        self.end()

    def _show(self, piece: str) -> None:
        if piece:
            self._text.append(piece)
            self.pieces.append(piece)


def check_tokens(tokens: Many[int], loaded: LoadedModel) -> None:
    """Raise :class:`InvalidInput` for no tokens or unknown ids, :class:`PromptTooLong` beyond the context window."""
    size = loaded.model.config.vocab_size
    if not tokens or not all(0 <= token < size for token in tokens):
        raise InvalidInput(f"a prompt needs at least one token, and ids from 0 to {size - 1}")
    if len(tokens) > loaded.context_window:
        raise PromptTooLong(f"{len(tokens)} tokens do not fit the context window of {loaded.context_window}")
