"""What is asked of the runtime, what it answers, and the state in between."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from typing import Any

import torch

from memos.activation.kv import KVBlock, KVSource
from memos.errors import InvalidInput, MemosError, PromptTooLong
from memos.runtime.loading import LoadedModel
from memos.runtime.pool import PAGE_TOKENS, PagePool
from memos.runtime.prompts import block_keys
from memos.runtime.residents import Resident
from memos.runtime.retrieval.names import check_retrieval
from memos.runtime.sampling import Sampler, Sampling
from memos.runtime.sequence import Sequence
from memos.runtime.text import TextStream
from memos.runtime.uses import AdapterUse, Cartridge
from memos.runtime.watching import Watcher
from memos_kernels import gather_pages

GREEDY = Sampling()


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt to go on with.

    ``prefix`` is the cache of the first ``prefix.tokens`` tokens, which the caller vouches for. The answer ends with a
    token that ends a text, before one of the ``stop`` strings, or after ``max_tokens``. ``seam`` is where a
    prefix would have ended that has to be computed instead (:class:`~memos.runtime.sequence.Sequence`).

    ``retrieval`` names how each row chooses what it attends of the prefix (``quest:0.25``); None: it attends all.

    ``adapters`` are added to the model for this request alone; ``cartridge`` stands for the first tokens, which are
    fillers. ``share`` lets the request read what others of the same ``owner`` computed for an equal beginning. Owners
    get even shares of the model when it is busy.
    """

    tokens: tuple[int, ...]
    prefix: KVSource | None = None
    sampling: Sampling = GREEDY
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    seam: int = 0
    adapters: tuple[AdapterUse, ...] = ()
    cartridge: Cartridge | None = None
    owner: str = ""
    share: bool = True
    retrieval: str | None = None

    @property
    def may_be_cut(self) -> bool:
        """Whether an adapter may be served with fewer ranks, for which nobody else may read its cache."""
        return any(use.least_rank is not None for use in self.adapters)

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
        if not all(math.isfinite(use.weight) for use in self.adapters):
            raise InvalidInput("the weights of adapters must be finite")
        if self.retrieval is not None:
            check_retrieval(self.retrieval)
        if self.cartridge is not None and self.prefix is not None:
            raise InvalidInput("a prompt begins with a cartridge or with a loaded cache, not with both")
        if self.cartridge is not None and not 0 < self.cartridge.tokens < len(self.tokens):
            raise InvalidInput(
                f"a prompt of {len(self.tokens)} tokens must go on after {self.cartridge.tokens} fillers"
            )


@dataclass(frozen=True, slots=True)
class Generated:
    """An answer.

    ``finish_reason`` is ``stop`` (a stop string or the end of the text), ``length``, or ``cancelled``. Times are in
    milliseconds: ``queue_ms`` until the first forward began, ``prefill_ms`` from there to the first token,
    ``first_token_ms`` and ``total_ms`` from the request on. ``attended`` is the share of the prefix that each row
    attends.
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
    attended: float = 1.0


@dataclass(slots=True)
class Clock:
    """When a request came, first ran, had its first token and ended, in seconds of ``time.perf_counter``."""

    came: float = field(default_factory=time.perf_counter)
    ran: float | None = None
    first: float | None = None
    ended: float | None = None


class Job:
    """A sequence in the loop, done when its cache is full."""

    def __init__(
        self,
        sequence: Sequence,
        *,
        owner: str = "",
        adapters: tuple[AdapterUse, ...] = (),
        cartridge: Cartridge | None = None,
        share: bool = False,
    ) -> None:
        self.sequence = sequence
        self.owner = owner
        self.adapters = adapters
        self.cartridge = cartridge
        #: All that its cache depends on, besides its tokens: digests, and whose it is.
        self.made_with = frozenset((owner, *(use.digest for use in adapters), cartridge.digest if cartridge else ""))
        self.clock = Clock()
        self.error: Exception | None = None
        self.done = False
        #: Blocks of 16 tokens before this one are whole blocks of the cartridge.
        self.first_own_block = cartridge.tokens // PAGE_TOKENS if cartridge is not None else 0
        root = (owner, *(f"{use.digest} {use.weight!r}" for use in adapters), cartridge.digest if cartridge else "")
        #: Keys of the blocks of its prompt, if it shares them with others.
        self.blocks = block_keys(sequence.tokens, root) if share else []
        #: What it holds in the pool while it runs: one entry for each of ``adapters``, and whatever it shares.
        self.residents: list[Resident] = []
        self.loras: list[Resident] = []
        self.admitted = False

    @property
    def active(self) -> bool:
        """Whether there is anything to run for it."""
        return not self.done and self.error is None

    @property
    def news(self) -> bool:
        """Whether its caller has something to take."""
        return not self.active

    def hush(self) -> None:
        """Drop the news: nobody is there to take it before the end."""

    def wanted(self, count: int) -> int:
        """Return of how many of the last of its next ``count`` rows it wants logits."""
        return 0

    def accept(self, logits: torch.Tensor, choice: int) -> None:
        """Take the float32 logits ``[wanted, vocabulary]``, the likeliest token of the last row with them."""

    def complete(self, pool: PagePool) -> None:
        """Take what is wanted of the full cache, before its pages are given back."""

    def end(self) -> None:
        """Run nothing more for it."""
        self.done, self.clock.ended = True, self.clock.ended or time.perf_counter()


class Prefill(Job):
    """A sequence whose cache is what is wanted, behind ``prefix``, and what ``watcher`` notes of its queries."""

    def __init__(
        self,
        tokens: Many[int],
        loaded: LoadedModel,
        watcher: Watcher | None = None,
        prefix: KVBlock | None = None,
    ) -> None:
        super().__init__(Sequence(tokens, loaded.shape, prefix=prefix))
        self.sequence.watcher = watcher
        self._shape = loaded.shape
        self.block: KVBlock | None = None

    def complete(self, pool: PagePool) -> None:
        """Copy the cache out of the pages."""
        sequence = self.sequence
        data = self._shape.empty(sequence.paged, pool.slots.device)
        table = torch.from_numpy(sequence.pages.reshape(-1, sequence.pages.shape[2])).to(data.device)
        gather_pages(pool.kv, table, data.flatten(0, 1))
        watcher = sequence.watcher
        self.block = KVBlock(self._shape, data.cpu(), None if watcher is None else watcher.seen())


class Scoring(Job):
    """A sequence of which the logits after every token are wanted."""

    def __init__(self, sequence: Sequence, **how: Any) -> None:
        super().__init__(sequence, **how)
        self.rows: list[torch.Tensor] = []

    def wanted(self, count: int) -> int:
        """All of them."""
        return count

    def accept(self, logits: torch.Tensor, choice: int) -> None:
        """Keep the rows."""
        self.rows.append(logits)


class Answer(Job):
    """A sequence that is continued until something ends it."""

    def __init__(self, request: Request, loaded: LoadedModel) -> None:
        self._prompt = len(request.tokens)
        self._room = min(request.max_tokens, loaded.context_window - self._prompt)
        sequence = Sequence(
            request.tokens,
            loaded.shape,
            prefix=request.prefix,
            growth=self._room - 1,
            seam=request.seam,
            retrieval=check_retrieval(request.retrieval) if request.retrieval is not None else None,
        )
        super().__init__(
            sequence,
            owner=request.owner,
            adapters=request.adapters,
            cartridge=request.cartridge,
            share=request.share and request.prefix is None and not request.seam and not request.may_be_cut,
        )
        self.pieces: deque[str] = deque()
        self._finish_reason = "cancelled"
        self._greedy = request.sampling.temperature == 0
        self._sampler = Sampler(request.sampling)
        self._stream = TextStream(loaded.tokenizer, request.stop)
        self._eos = loaded.eos_ids
        self._text: list[str] = []

    @property
    def news(self) -> bool:
        """Whether there is text to take, or nothing more will come."""
        return bool(self.pieces) or super().news

    def hush(self) -> None:
        """Drop the pieces; the result has the text."""
        self.pieces.clear()

    def wanted(self, count: int) -> int:
        """The last row, once all that waits has run."""
        return int(self.sequence.waiting == count)

    def accept(self, logits: torch.Tensor, choice: int) -> None:
        """Choose the next token; end if it ends the answer."""
        if not logits[0, choice].isfinite():
            self.error = MemosError("the model computed values that are not finite: use float32 or bfloat16")
            return
        token = choice if self._greedy else self._sampler.choose(logits[0])
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
            attended=self.sequence.attended / max(self.sequence.prefix_tokens, 1) if self.sequence.prefix else 1.0,
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
