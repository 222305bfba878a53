"""A chat with memory, top to bottom: recall, cover, load, generate, account.

The prompt is one line of tokens: the constant head, the bundle of a KV file if one covers the memories, the memories
it lacks, and the conversation. What the file holds is not computed again; everything else is. Where no KV file covers
the memories, the model runs with the adapters and the cartridge that were trained on them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

from memos.activation.bundle import BundleNote, bundle_of
from memos.activation.miss import KVMiss
from memos.activation.tier import ActivationTier
from memos.config import Settings
from memos.cube import Scope
from memos.errors import AdapterRefused, NotFound
from memos.llm.messages import ChatOptions, ChatReply, Message, Miss, Usage
from memos.parametric.choice import choose
from memos.parametric.tier import ParametricTier
from memos.plaintext.recall import Hit, RecallResult
from memos.runtime.host import ModelHost, Serving, owner_of
from memos.store.adapters import AdapterRecord, Payload

if TYPE_CHECKING:
    from memos.activation.reuse import Cover, Loaded
    from memos.parametric.adapter import Adapter
    from memos.parametric.cartridge import TrainedCartridge
    from memos.runtime.loop import Generated
    from memos.runtime.uses import AdapterUse, Cartridge

OnText = Callable[[str], None]
#: Stands for the tokens of a cartridge, which never run.
FILLER = 0


@dataclass(frozen=True, slots=True)
class _Prompt:
    """All tokens of a prompt, the cube that covers its start, the notes beside that, and what the model runs with."""

    tokens: list[int]
    cover: Cover | None
    notes: tuple[BundleNote, ...]
    adapters: tuple[AdapterRecord, ...] = ()

    @property
    def covered(self) -> int:
        return len(self.cover.tokens) if self.cover else 0


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
        prompt, generated, loaded, misses = self._generate(asked, prompt, serving, watch)
        self._count(scope, prompt, loaded, misses)
        return _reply(prompt, generated, loaded, misses, serving, watch)

    # ------------------------------------------------------------ stages

    def _prompt(self, asked: _Asked, serving: Serving, adapters: Sequence[str] | None) -> _Prompt:
        encode = serving.format.encode_text
        chosen = self._affordable(asked.hits, serving)
        cover = self._activation.reuse.cover(asked.scope, chosen, serving) if chosen and not adapters else None
        records = self._records(asked, chosen, serving, adapters) if cover is None or not asked.options.reuse else ()
        if records:
            cover = None  # a KV file is of the bare model
        held = {note.cube_id for note in cover.bundle.notes} if cover else set()
        if not asked.options.text:
            held |= {cube_id for record in records for cube_id, _ in record.sources}
        beside = bundle_of(
            BundleNote(hit.id, hit.version, hit.text, hit.event_time) for hit in chosen if hit.id not in held
        )
        memory = [*(cover.tokens[cover.activation.head_tokens :] if cover else ()), *beside.tokens(encode)]
        return _Prompt(serving.format.prompt(memory, _plain(asked.messages)), cover, beside.notes, tuple(records))

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
    ) -> tuple[_Prompt, Generated, Loaded | None, list[Miss]]:
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
        if prompt.cover is not None and asked.options.reuse:
            try:
                loaded = self._activation.reuse.load(asked.scope, prompt.cover, serving)
                return prompt, self._run(asked, prompt, serving, watch, loaded), loaded, misses
            except KVMiss as miss:
                misses.append(Miss(cube_id=prompt.cover.activation.cube_id, reason=str(miss)))
        return prompt, self._run(asked, prompt, serving, watch, None), None, misses

    def _run(self, asked: _Asked, prompt: _Prompt, serving: Serving, watch: Watch, loaded: Loaded | None) -> Generated:
        from memos.runtime.loop import Request  # loaded with the model that `serving` holds
        from memos.runtime.sampling import Sampling

        options = asked.options
        adapters, cartridge = self._uses(asked.scope, prompt.adapters)
        request = Request(
            tokens=(*(FILLER,) * (cartridge.tokens if cartridge is not None else 0), *prompt.tokens),
            prefix=loaded.kv if loaded is not None else None,
            sampling=Sampling(temperature=options.temperature, top_p=options.top_p, seed=options.seed),
            max_tokens=options.max_tokens,
            stop=options.stop,
            seam=prompt.covered,
            adapters=adapters,
            cartridge=cartridge,
            owner=owner_of(asked.scope),
            share=options.reuse,
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

    def _count(self, scope: Scope, prompt: _Prompt, loaded: Loaded | None, misses: Sequence[Miss]) -> None:
        if prompt.cover is not None and (loaded is not None or _missed(prompt, misses)):
            self._activation.reuse.count(scope, prompt.cover, tokens=prompt.covered if loaded is not None else 0)
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
    loaded: Loaded | None,
    misses: Sequence[Miss],
    serving: Serving,
    watch: Watch,
) -> ChatReply:
    reused = prompt.covered if loaded is not None else 0
    shared = generated.reused_tokens - reused - sum(record.tokens for record in prompt.adapters)
    milliseconds = {
        **watch.laps,
        "read": loaded.read_ms if loaded is not None else 0.0,
        "decode": loaded.decode_ms if loaded is not None else 0.0,
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
        milliseconds=milliseconds,
    )
    return ChatReply(
        text=generated.text,
        finish_reason=generated.finish_reason,
        model=serving.loaded.name,
        usage=usage,
        tiers=_tiers(prompt, reused=loaded is not None),
        misses=tuple(misses),
    )


def _missed(prompt: _Prompt, misses: Sequence[Miss]) -> bool:
    """Return whether a KV file should have served, and did not."""
    return prompt.cover is not None and any(miss.cube_id == prompt.cover.activation.cube_id for miss in misses)


def _tiers(prompt: _Prompt, *, reused: bool) -> dict[str, tuple[str, ...]]:
    """Return which cubes are in the prompt, by the tier they came from: a bundle computed anew came as plaintext."""
    beside = tuple(note.cube_id for note in prompt.notes)
    if prompt.adapters:
        return {"parametric": tuple(record.cube_id for record in prompt.adapters), "plaintext": beside}
    if prompt.cover is None:
        return {"plaintext": beside}
    if reused:
        return {"activation": (prompt.cover.activation.cube_id,), "plaintext": beside}
    return {"plaintext": (*(note.cube_id for note in prompt.cover.bundle.notes), *beside)}


def _plain(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [message.model_dump() for message in messages]
