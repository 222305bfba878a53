"""Who may run: a request is let in once every page it can ever need is its own. So none can wait for another: no
deadlock, nothing to swap out, nobody thrown out half-way.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from memos.activation.kv import KVBlock
from memos.errors import InvalidInput
from memos.runtime.loading_ahead import LoadingAhead
from memos.runtime.packing import Modules, Packed, pack
from memos.runtime.pool import PAGE_TOKENS, PagePool, Pages
from memos.runtime.request import Job
from memos.runtime.residents import Resident, Residents
from memos.runtime.uses import AdapterUse, Cartridge
from memos_kernels import scatter_pages
from memos_kernels.adapters import GROUP

#: Until it was measured: what a page of an adapter, and a token of a prompt, take to make again.
PAGE_SECONDS, TOKEN_SECONDS = 5e-6, 2e-3

#: Tokens from which on a forward's time is that of its tokens.
LARGE = 64

NO_RANKS = np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True)
class PoolUse:
    """What the page pool holds: ``idle_bytes`` could be had for the asking. Counters are of adapters and cartridges."""

    bytes: int
    free_bytes: int
    idle_bytes: int
    residents: int
    hits: int
    misses: int
    evicted: int


@dataclass(slots=True, eq=False)
class Lora(Resident):
    """An adapter in pages; ``ranks`` and ``places`` as AdapterStep wants them."""

    ranks: np.ndarray = field(default_factory=lambda: NO_RANKS)
    places: np.ndarray = field(default_factory=lambda: NO_RANKS)


class Admission:
    """Gives requests their pages, with whatever they can share, and takes them back."""

    def __init__(self, pool: PagePool, modules: Modules) -> None:
        self.pool = pool
        self.modules = modules
        self.residents = Residents(pool)
        self.ahead = LoadingAhead()
        #: Seconds that a token of a prompt takes, as last measured.
        self.token_seconds = TOKEN_SECONDS

    def check(self, job: Job) -> None:
        """Raise :class:`InvalidInput` for a job that the pool could not hold if it were empty."""
        if (pages := job.sequence.blocks * self.pool.shape.block_pages) > self.pool.pages:
            raise self._too_large(pages)

    def prepare(self, job: Job) -> None:
        """Begin to read what a waiting job will need."""
        for use in job.adapters:
            if self._present(use) is None:
                self._reading(use)
        if job.cartridge is not None and self.residents.find(job.cartridge.digest) is None:
            self._reading_cartridge(job.cartridge)

    def ready(self, job: Job) -> bool:
        """Return whether what a job needs is there, or read: it waits for pages alone."""
        return all(reading.done() for reading in self._readings(job).values())

    def admit(self, job: Job) -> bool:
        """Give a job its pages; return False if they, or what it needs, are not there yet.

        A job whose adapters cannot be used gets the reason as its ``error``.
        """
        readings = self._readings(job)
        if not all(reading.done() for reading in readings.values()):
            return False
        for reading in readings.values():
            if (error := reading.exception()) is not None:
                job.error = error if isinstance(error, Exception) else InvalidInput(str(error))
                return False
        shared = self._shared(job)
        self.residents.hold(shared)  # before room is made, so that it is not made of these
        plan = self._plan(job, readings, len(_blocks(shared)))
        if sum(plan) > self.pool.pages:
            job.error = self._too_large(sum(plan))
        if job.error is not None or not self.residents.make_room(sum(plan)):
            self.residents.let_go(shared)
            return False
        job.residents = shared
        self.residents.misses += len(readings)
        self.residents.hits += len(job.adapters) + (job.cartridge is not None) - len(readings)
        self._place(job, readings, plan)
        return True

    def leave(self, job: Job) -> None:
        """Take back the pages of a job."""
        if job.admitted:
            job.admitted = False
            self.pool.give_back(job.sequence.pages)
            self.residents.let_go(job.residents)
            job.residents, job.loras = [], []

    def publish(self, job: Job) -> None:
        """Let others share the whole blocks of a prompt that ran."""
        sequence = job.sequence
        whole = min(len(job.blocks), sequence.paged // PAGE_TOKENS)
        if whole <= job.first_own_block or self.residents.find(job.blocks[whole - 1]) is not None:
            return
        for at in range(job.first_own_block, whole):
            if self.residents.find(job.blocks[at]) is None:
                pages = np.ascontiguousarray(sequence.pages[:, :, at])
                self.pool.share(pages)
                made = Resident(
                    key=job.blocks[at],
                    pages=pages,
                    seconds=PAGE_TOKENS * self.token_seconds,
                    depth=at,
                    before=job.blocks[at - 1] if at else None,
                    made_with=job.made_with,
                )
                self.residents.hold([self.residents.add(made)])
                job.residents.append(made)

    def drop(self, digests: Iterable[str]) -> None:
        """Forget adapters and cartridges, and every block that was computed with one."""
        for digest in digests:
            self.residents.drop_made_with(digest)
            self.ahead.forget(digest)

    def holds(self, digest: str) -> bool:
        """Return whether an adapter or cartridge is there, whole. Nobody uses it by that."""
        return any(self.residents.find(key) is not None for key in (("adapter", digest), digest))

    def measured(self, tokens: int, seconds: float) -> None:
        """Learn what a token of a prompt takes, from forwards of many tokens."""
        if tokens >= LARGE:
            self.token_seconds += (seconds / tokens - self.token_seconds) / 8

    def use(self) -> PoolUse:
        """Return what the pool holds."""
        there, size = self.residents, self.pool.shape.bytes
        return PoolUse(
            bytes=self.pool.pages * size,
            free_bytes=self.pool.free * size,
            idle_bytes=there.idle_pages * size,
            residents=len(there),
            hits=there.hits,
            misses=there.misses,
            evicted=there.evicted,
        )

    # ------------------------------------------------------------ what is there

    def _present(self, use: AdapterUse) -> Resident | None:
        """Return the adapter in the pool, whole, or with as many ranks as the use is content with."""
        whole = self.residents.find(("adapter", use.digest))
        if whole is not None or use.least_rank is None:
            return whole
        part = self.residents.find(("ranks", use.digest))
        return part if isinstance(part, Lora) and int(part.ranks.max()) >= use.least_rank else None

    def _shared(self, job: Job) -> list[Resident]:
        """Return what a job can share of what is there: adapters, a cartridge, blocks of its prompt."""
        found = [one for use in job.adapters if (one := self._present(use)) is not None]
        cartridge = job.cartridge and self.residents.find(job.cartridge.digest)
        found += [cartridge] if cartridge else []
        last = (len(job.sequence.tokens) - 1) // PAGE_TOKENS  # a token has to be left to run
        for key in job.blocks[job.first_own_block : last]:
            block = self.residents.find(key)
            if block is None:
                break
            found.append(block)
        return list(dict.fromkeys(found))

    def _readings(self, job: Job) -> dict[str, Future[Packed | KVBlock]]:
        missing = {use.digest: self._reading(use) for use in job.adapters if self._present(use) is None}
        if job.cartridge is not None and self.residents.find(job.cartridge.digest) is None:
            missing[job.cartridge.digest] = self._reading_cartridge(job.cartridge)
        return missing

    def _reading(self, use: AdapterUse) -> Future[Packed | KVBlock]:
        dtype = self.pool.shape.kv.torch_dtype
        return self.ahead.ask(use.digest, lambda: pack(use.load(), self.modules, dtype))

    def _reading_cartridge(self, cartridge: Cartridge) -> Future[Packed | KVBlock]:
        return self.ahead.ask(cartridge.digest, lambda: self._checked(cartridge))

    def _checked(self, cartridge: Cartridge) -> KVBlock:
        """Read a cartridge of any dtype, as adapters may be: it is rounded once."""
        block, kv = cartridge.load(), self.pool.shape.kv
        if replace(block.shape, dtype=kv.dtype) != kv or block.tokens != cartridge.tokens:
            raise InvalidInput(f"the cartridge is one of {block.tokens} tokens for a model of {block.shape}")
        return KVBlock(kv, block.data.to(kv.torch_dtype))

    # ------------------------------------------------------------ room

    def _plan(self, job: Job, readings: dict[str, Future[Packed | KVBlock]], shared: int) -> list[int]:
        """Return how many pages each thing that is read needs, and last the sequence, ``shared`` blocks of it there.

        Where pages are short, adapters that may be are cut to their first ranks.
        """
        wanted = [self._pages_of(reading.result()) for reading in readings.values()]
        own = job.sequence.blocks - job.first_own_block - shared
        wanted.append(own * self.pool.shape.block_pages)
        if sum(wanted) > self.pool.free + self.residents.idle_pages:
            return self._cut(job, readings, wanted)
        return wanted

    def _cut(self, job: Job, readings: dict[str, Future[Packed | KVBlock]], wanted: list[int]) -> list[int]:
        least = {use.digest: use.least_rank for use in job.adapters}
        for at, (digest, reading) in enumerate(readings.items()):
            ranks, packed = least.get(digest), reading.result()
            if ranks is not None and isinstance(packed, Packed):
                groups = min(max(-(-ranks // GROUP), 1), len(packed.starts) - 1)
                wanted[at] = -(-int(packed.starts[groups]) // self.pool.shape.slots)
        return wanted

    def _pages_of(self, loaded: Packed | KVBlock) -> int:
        if isinstance(loaded, KVBlock):
            return self.pool.shape.kv_pages(loaded.tokens)
        return -(-len(loaded.run) // self.pool.shape.slots)

    def _too_large(self, count: int) -> InvalidInput:
        return InvalidInput(
            f"the request needs {count * self.pool.shape.bytes:,} bytes of cache and adapters; the pool has "
            f"{self.pool.pages * self.pool.shape.bytes:,}: ask for fewer tokens, or set MEMOS_POOL_BYTES higher"
        )

    # ------------------------------------------------------------ placing

    def _place(self, job: Job, readings: dict[str, Future[Packed | KVBlock]], plan: list[int]) -> None:
        made: dict[str, Resident] = {}
        for (digest, reading), count in zip(readings.items(), plan, strict=False):
            loaded = reading.result()
            one = (
                self._place_kv(digest, loaded)
                if isinstance(loaded, KVBlock)
                else self._place_lora(digest, loaded, count)
            )
            made[digest] = self.residents.add(one)
        self.residents.hold(made.values())
        job.residents += made.values()
        job.loras = [made.get(use.digest) or self._held(job, use) for use in job.adapters]
        self._begin(job, plan[-1])
        job.admitted = True

    def _held(self, job: Job, use: AdapterUse) -> Resident:
        keys = (("adapter", use.digest), ("ranks", use.digest))
        return next(one for one in job.residents if one.key in keys)

    def _place_lora(self, digest: str, packed: Packed, count: int) -> Lora:
        """Copy an adapter, or as many of its groups of ranks as fill ``count`` pages, into the pool."""
        slots, pool = self.pool.shape.slots, self.pool
        whole = count >= self._pages_of(packed)
        groups = int(np.searchsorted(packed.starts, count * slots, side="right")) - 1
        run = packed.run[: int(packed.starts[groups])].to(pool.slots.device)
        pages = pool.take(count)
        table, full = pool.slots.view(pool.pages, slots, -1), len(run) // slots
        where = torch.from_numpy(pages.astype(np.int64)).to(run.device)
        table[where[:full]] = run[: full * slots].view(full, slots, -1)
        if full < count:
            table[where[full], : len(run) - full * slots] = run[full * slots :]
        return Lora(
            key=("adapter" if whole else "ranks", digest),
            pages=pages,
            seconds=PAGE_SECONDS * count,
            made_with=frozenset({digest}),
            ranks=packed.ranks if whole else np.minimum(packed.ranks, groups * GROUP),
            places=packed.places,
        )

    def _place_kv(self, digest: str, block: KVBlock) -> Resident:
        shape = self.pool.shape
        pages = self.pool.take(shape.kv_pages(block.tokens)).reshape(shape.kv.layers, 2, -1)
        data = block.data.to(self.pool.slots.device)
        scatter_pages(data.flatten(0, 1), self.pool.kv, _table(pages, data.device))
        return Resident(digest, pages, self.token_seconds * block.tokens, made_with=frozenset({digest}))

    def _begin(self, job: Job, count: int) -> None:
        """Give the sequence its pages: those it shares first."""
        sequence, shape = job.sequence, self.pool.shape
        trained = self.residents.find(job.cartridge.digest) if job.cartridge is not None else None
        blocks = [trained.pages[:, :, at] for at in range(job.first_own_block)] if trained is not None else []
        blocks += [one.pages for one in _blocks(job.residents)]
        shared = np.stack(blocks, -1) if blocks else np.zeros((shape.kv.layers, 2, 0), np.int32)
        self.pool.share(shared)
        own = self.pool.take(count).reshape(shape.kv.layers, 2, -1)
        known = len(blocks) * PAGE_TOKENS
        if job.cartridge is not None and trained is not None and job.cartridge.tokens > known:
            known = job.cartridge.tokens
            self._copy(trained.pages[:, :, len(blocks)], own[:, :, 0])
        sequence.begin(np.concatenate([shared, own], -1), known)

    def _copy(self, source: Pages, target: Pages) -> None:
        """Copy a block that a sequence is to go on writing."""
        here, there = (torch.from_numpy(pages.ravel().astype(np.int64)) for pages in (source, target))
        self.pool.kv[there.to(self.pool.kv.device)] = self.pool.kv[here.to(self.pool.kv.device)]


def _table(pages: Pages, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(pages.reshape(-1, pages.shape[2])).to(device)


def _blocks(residents: list[Resident]) -> list[Resident]:
    """Return those of residents that are blocks of a prompt."""
    return [one for one in residents if isinstance(one.key, bytes)]
