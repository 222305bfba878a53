"""A chat with memory, top to bottom: recall, cover, load, generate, account.

The prompt is one line of tokens: the constant head, the bundles of the KV files that cover the memories, the memories
they lack, and the conversation. What one file holds is not computed again; of several, only what a plan says
(:mod:`memos.activation.compose`); everything else is. Where no KV file covers the memories, the model runs with the
adapters and the cartridge that were trained on them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

from memos.activation.bundle import BundleNote, bundle_of
from memos.activation.compose.composer import CubeMiss, Plan, Ready
from memos.activation.miss import KVMiss
from memos.activation.tier import ActivationTier
from memos.config import Settings
from memos.cube import Scope
from memos.errors import AdapterRefused, NotFound
from memos.llm.messages import BundleUse, ChatOptions, ChatReply, Message, Miss, Usage
from memos.parametric.choice import choose
from memos.parametric.tier import ParametricTier
from memos.plaintext.recall import Hit, RecallResult
from memos.runtime.host import ModelHost, Serving, owner_of
from memos.store.adapters import AdapterRecord, Payload

if TYPE_CHECKING:
    from memos.parametric.adapter import Adapter
    from memos.parametric.cartridge import TrainedCartridge
    from memos.runtime.loop import Generated
    from memos.runtime.uses import AdapterUse, Cartridge

OnText = Callable[[str], None]
#: Stands for the tokens of a cartridge, which never run.
FILLER = 0


@dataclass(frozen=True, slots=True)
class _Prompt:
    """All tokens of a prompt, the cubes that cover its start, the notes beside that, and what the model runs with."""

    tokens: list[int]
    plan: Plan
    notes: tuple[BundleNote, ...]
    adapters: tuple[AdapterRecord, ...] = ()

    @property
    def covered(self) -> int:
        return len(self.plan.tokens)

    @property
    def bundled(self) -> tuple[BundleNote, ...]:
        return tuple(note for cover in self.plan.covers for note in cover.bundle.notes)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a chat is about."""

    scope: Scope
    hits: Sequence[Hit]
    messages: Sequence[Message]
    options: ChatOptions
    on_text: OnText | None


class Chat:
    """Answers the last message of a conversation with what a scope remembers."""

    def __init__(
        self,
        recall: Callable[..., RecallResult],
        models: ModelHost,
        activation: ActivationTier,
        parametric: ParametricTier,
        settings: Settings,
    ) -> None:
        self._recall = recall
        self._models = models
        self._activation = activation
        self._parametric = parametric
        self._settings = settings

    def answer(
        self, scope: Scope, messages: Sequence[Message], options: ChatOptions, on_text: OnText | None
    ) -> ChatReply:
        """Return the reply; raise ``PromptTooLong`` where it cannot fit the model's context window."""
        watch = Watch()
        hits = self._recall(scope, messages[-1].content, top_k=options.top_k).hits if options.top_k else ()
        watch.lap("recall")
        serving = self._models.serving()
        watch.lap("model")
        asked = _Asked(scope, hits, messages, options, on_text)
        prompt = self._prompt(asked, serving, options.adapters)
        watch.lap("lookup")
        prompt, generated, ready, misses = self._generate(asked, prompt, serving, watch)
        self._count(scope, prompt, ready, misses)
        return _reply(prompt, generated, ready, misses, serving, watch, options.retrieval)

    # ------------------------------------------------------------ stages

    def _prompt(self, asked: _Asked, serving: Serving, adapters: Sequence[str] | None) -> _Prompt:
        encode = serving.format.encode_text
        chosen = self._affordable(asked.hits, serving)
        plan = self._plan(asked, chosen, serving) if chosen and not adapters else Plan()
        records = self._records(asked, chosen, serving, adapters) if not plan.covers or not asked.options.reuse else ()
        if records:
            plan = Plan()  # a KV file is of the bare model
        held = {note.cube_id for cover in plan.covers for note in cover.bundle.notes}
        if not asked.options.text:
            held |= {cube_id for record in records for cube_id, _ in record.sources}
        beside = bundle_of(
            BundleNote(hit.id, hit.version, hit.text, hit.event_time) for hit in chosen if hit.id not in held
        )
        memory = [*(token for cover in plan.covers for token in cover.memory), *beside.tokens(encode)]
        return _Prompt(serving.format.prompt(memory, _plain(asked.messages)), plan, beside.notes, tuple(records))

    def _plan(self, asked: _Asked, hits: Sequence[Hit], serving: Serving) -> Plan:
        composer, options = self._activation.composer, asked.options
        mode, ratio = self._activation.user_settings.composition(asked.scope, options.compose, options.ratio)
        covers = self._activation.reuse.covers(asked.scope, hits, serving, composer.most(serving, mode))
        return composer.plan(covers, [hit.id for hit in hits], serving, mode, ratio)

    def _records(
        self, asked: _Asked, hits: Sequence[Hit], serving: Serving, adapters: Sequence[str] | None
    ) -> Sequence[AdapterRecord]:
        base = serving.loaded.identity.base
        return choose(self._parametric, asked.scope, base, [hit.id for hit in hits], adapters)

    def _affordable(self, hits: Sequence[Hit], serving: Serving) -> list[Hit]:
        """Return the best hits that fit the budget together; one that does not fit is left out whole."""
        left, chosen = self._settings.chat_memory_tokens, []
        for hit in hits:
            cost = len(serving.format.encode_text(BundleNote(hit.id, hit.version, hit.text, hit.event_time).line))
            if cost <= left:
                chosen.append(hit)
                left -= cost
        return chosen

    def _generate(
        self, asked: _Asked, prompt: _Prompt, serving: Serving, watch: Watch
    ) -> tuple[_Prompt, Generated, Ready | None, list[Miss]]:
        """Decode with what was found; whatever of it turns out unusable, the text of the memories takes its place."""
        misses: list[Miss] = []
        if prompt.adapters:
            try:
                return prompt, self._run(asked, prompt, serving, watch, None), None, misses
            except (AdapterRefused, NotFound) as error:
                if asked.options.adapters is not None:
                    raise
                misses = [Miss(cube_id=one.cube_id, reason=error.message) for one in prompt.adapters]
                prompt = self._prompt(asked, serving, ())
        if prompt.plan.covers and asked.options.reuse:
            try:
                question = prompt.tokens[prompt.covered :]
                ready = self._activation.composer.ready(asked.scope, prompt.plan, question, serving)
                return prompt, self._run(asked, prompt, serving, watch, ready), ready, misses
            except KVMiss as miss:
                missed = miss.cube_id if isinstance(miss, CubeMiss) else prompt.plan.covers[0].activation.cube_id
                misses.append(Miss(cube_id=missed, reason=str(miss)))
        return prompt, self._run(asked, prompt, serving, watch, None), None, misses

    def _run(self, asked: _Asked, prompt: _Prompt, serving: Serving, watch: Watch, ready: Ready | None) -> Generated:
        from memos.runtime.loop import Request  # loaded with the model that `serving` holds
        from memos.runtime.sampling import Sampling

        options = asked.options
        adapters, cartridge = self._uses(asked.scope, prompt.adapters)
        request = Request(
            tokens=(*(FILLER,) * (cartridge.tokens if cartridge is not None else 0), *prompt.tokens),
            prefix=ready.kv if ready is not None else None,
            sampling=Sampling(temperature=options.temperature, top_p=options.top_p, seed=options.seed),
            max_tokens=options.max_tokens,
            stop=options.stop,
            seam=prompt.covered,
            adapters=adapters,
            cartridge=cartridge,
            owner=owner_of(asked.scope),
            share=options.reuse,
            retrieval=options.retrieval,
        )
        with closing(serving.runtime.generate(request)) as pieces:  # `on_text` may raise: nobody listens any more
            for piece in pieces:
                watch.first()
                if asked.on_text is not None:
                    asked.on_text(piece)
            return pieces.result

    def _uses(self, scope: Scope, records: Sequence[AdapterRecord]) -> tuple[tuple[AdapterUse, ...], Cartridge | None]:
        """Return how the runtime names what a request runs with."""
        from memos.runtime.uses import AdapterUse, Cartridge

        adapters, cartridge = [], None
        for record in records:
            load = partial(self._parametric.load, scope, record)
            if record.payload is Payload.LORA:
                adapters.append(AdapterUse(record.digest, cast("Callable[[], Adapter]", load)))
            else:
                trained = cast("Callable[[], TrainedCartridge]", load)
                cartridge = Cartridge(record.digest, record.tokens, lambda read=trained: read().kv)  # type: ignore[misc]
        return tuple(adapters), cartridge

    def _count(self, scope: Scope, prompt: _Prompt, ready: Ready | None, misses: Sequence[Miss]) -> None:
        missed = {miss.cube_id for miss in misses}
        for place, cover in enumerate(prompt.plan.covers):
            if ready is not None:
                of_head = 0 if place else cover.activation.head_tokens
                used = of_head + len(cover.memory) - ready.recomputed[place]
                self._activation.reuse.count(scope, cover, tokens=used)
            elif cover.activation.cube_id in missed:
                self._activation.reuse.count(scope, cover, tokens=0)
        if prompt.adapters:
            self._parametric.count_use(scope, [record.cube_id for record in prompt.adapters])


class Watch:
    """Milliseconds from the call to the end of each stage, and to the first piece of text."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self.laps: dict[str, float] = {}
        self.first_token: float | None = None

    def lap(self, name: str) -> None:
        """Record the time since the lap before."""
        now = time.perf_counter()
        self.laps[name], self._last = (now - self._last) * 1e3, now

    def first(self) -> None:
        """Record when the first text came."""
        if self.first_token is None:
            self.first_token = self.elapsed

    @property
    def elapsed(self) -> float:
        """Milliseconds since the call."""
        return (time.perf_counter() - self._start) * 1e3


def _reply(
    prompt: _Prompt,
    generated: Generated,
    ready: Ready | None,
    misses: Sequence[Miss],
    serving: Serving,
    watch: Watch,
    retrieval: str | None,
) -> ChatReply:
    recomputed = sum(ready.recomputed) if ready is not None else 0
    reused = prompt.covered - recomputed if ready is not None else 0
    covered = prompt.covered if ready is not None else 0
    shared = generated.reused_tokens - covered - sum(record.tokens for record in prompt.adapters)
    milliseconds = {
        **watch.laps,
        "read": sum(one.read_ms for one in ready.loaded) if ready is not None else 0.0,
        "decode": sum(one.decode_ms for one in ready.loaded) if ready is not None else 0.0,
        "compose": ready.compose_ms if ready is not None else 0.0,
        "prefill": generated.prefill_ms,
        "first_token": watch.first_token or watch.elapsed,
        "total": watch.elapsed,
    }
    usage = Usage(
        prompt_tokens=len(prompt.tokens),
        completion_tokens=len(generated.tokens),
        total_tokens=len(prompt.tokens) + len(generated.tokens),
        tokens_reused=reused,
        tokens_shared=shared,
        tokens_recomputed=len(prompt.tokens) - reused - shared,
        tokens_missed=prompt.covered if _missed(prompt, misses) else 0,
        mode=prompt.plan.mode if ready is not None else None,
        ratio=prompt.plan.ratio if ready is not None else 0.0,
        retrieval=retrieval if ready is not None else None,
        attended=generated.attended,
        bundles=_bundles(prompt.plan, ready),
        milliseconds=milliseconds,
    )
    return ChatReply(
        text=generated.text,
        finish_reason=generated.finish_reason,
        model=serving.loaded.name,
        usage=usage,
        tiers=_tiers(prompt, reused=ready is not None),
        misses=tuple(misses),
    )


def _bundles(plan: Plan, ready: Ready | None) -> tuple[BundleUse, ...]:
    """Return what became of each bundle that a KV file served; the head counts for none."""
    if ready is None:
        return ()
    return tuple(
        BundleUse(cube_id=cover.activation.cube_id, reused=len(cover.memory) - anew, recomputed=anew)
        for cover, anew in zip(plan.covers, ready.recomputed, strict=True)
    )


def _missed(prompt: _Prompt, misses: Sequence[Miss]) -> bool:
    """Return whether KV files should have served, and did not."""
    served = {cover.activation.cube_id for cover in prompt.plan.covers}
    return any(miss.cube_id in served for miss in misses)


def _tiers(prompt: _Prompt, *, reused: bool) -> dict[str, tuple[str, ...]]:
    """Return which cubes are in the prompt, by the tier they came from: a bundle computed anew came as plaintext."""
    beside = tuple(note.cube_id for note in prompt.notes)
    if prompt.adapters:
        return {"parametric": tuple(record.cube_id for record in prompt.adapters), "plaintext": beside}
    if not prompt.plan.covers:
        return {"plaintext": beside}
    if reused:
        return {"activation": tuple(cover.activation.cube_id for cover in prompt.plan.covers), "plaintext": beside}
    return {"plaintext": (*(note.cube_id for note in prompt.bundled), *beside)}


def _plain(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [message.model_dump() for message in messages]
