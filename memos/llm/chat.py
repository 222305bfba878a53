"""A chat with memory, top to bottom: recall, cover, load, generate, account.

The prompt is one line of tokens: the constant head, the bundle of a KV file if one covers the memories, the memories
it lacks, and the conversation. What the file holds is not computed again; everything else is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memos.activation.bundle import BundleNote, bundle_of
from memos.activation.miss import KVMiss
from memos.activation.tier import ActivationTier
from memos.config import Settings
from memos.cube import Scope
from memos.llm.messages import ChatOptions, ChatReply, Message, Miss, Usage
from memos.plaintext.recall import Hit, RecallResult
from memos.runtime.host import ModelHost, Serving

if TYPE_CHECKING:
    from memos.activation.reuse import Cover, Loaded
    from memos.runtime.loop import Generated

OnText = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Prompt:
    """All tokens of a prompt, the cube that covers its start, and the notes beside that."""

    tokens: list[int]
    cover: Cover | None
    notes: tuple[BundleNote, ...]

    @property
    def covered(self) -> int:
        return len(self.cover.tokens) if self.cover else 0


class Chat:
    """Answers the last message of a conversation with what a scope remembers."""

    def __init__(
        self,
        recall: Callable[..., RecallResult],
        models: ModelHost,
        activation: ActivationTier,
        settings: Settings,
    ) -> None:
        self._recall = recall
        self._models = models
        self._activation = activation
        self._settings = settings

    def answer(
        self, scope: Scope, messages: Sequence[Message], options: ChatOptions, on_text: OnText | None
    ) -> ChatReply:
        """Return the reply; raise ``PromptTooLong`` where it cannot fit the model's context window."""
        watch = Watch()
        hits = self._recall(scope, messages[-1].content, top_k=options.top_k).hits
        watch.lap("recall")
        serving = self._models.serving()
        watch.lap("model")
        prompt = self._prompt(scope, hits, messages, serving)
        watch.lap("lookup")
        generated, loaded, misses = self._generate(scope, prompt, options, on_text, serving, watch)
        self._count(scope, prompt, loaded, misses)
        return _reply(prompt, generated, loaded, misses, serving, watch)

    # ------------------------------------------------------------ stages

    def _prompt(self, scope: Scope, hits: Sequence[Hit], messages: Sequence[Message], serving: Serving) -> _Prompt:
        encode = serving.format.encode_text
        chosen = self._affordable(hits, serving)
        cover = self._activation.reuse.cover(scope, chosen, serving) if chosen else None
        held = {note.cube_id for note in cover.bundle.notes} if cover else set()
        beside = bundle_of(
            BundleNote(hit.id, hit.version, hit.text, hit.event_time) for hit in chosen if hit.id not in held
        )
        memory = [*(cover.tokens[cover.activation.head_tokens :] if cover else ()), *beside.tokens(encode)]
        return _Prompt(serving.format.prompt(memory, _plain(messages)), cover, beside.notes)

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
        self,
        scope: Scope,
        prompt: _Prompt,
        options: ChatOptions,
        on_text: OnText | None,
        serving: Serving,
        watch: Watch,
    ) -> tuple[Generated, Loaded | None, list[Miss]]:
        """Decode with the loaded cache; if its file turns out unusable at any point, compute what it should bring."""
        if prompt.cover is not None and options.reuse:
            try:
                loaded = self._activation.reuse.load(scope, prompt.cover, serving)
                return self._run(prompt, options, on_text, serving, watch, loaded), loaded, []
            except KVMiss as miss:
                misses = [Miss(cube_id=prompt.cover.activation.cube_id, reason=str(miss))]
        else:
            misses = []
        return self._run(prompt, options, on_text, serving, watch, None), None, misses

    def _run(
        self,
        prompt: _Prompt,
        options: ChatOptions,
        on_text: OnText | None,
        serving: Serving,
        watch: Watch,
        loaded: Loaded | None,
    ) -> Generated:
        from memos.runtime.loop import Request  # loaded with the model that `serving` holds
        from memos.runtime.sampling import Sampling

        request = Request(
            tokens=tuple(prompt.tokens),
            prefix=loaded.kv if loaded is not None else None,
            sampling=Sampling(temperature=options.temperature, top_p=options.top_p, seed=options.seed),
            max_tokens=options.max_tokens,
            stop=options.stop,
            seam=prompt.covered,
        )
        pieces = serving.runtime.generate(request)
        for piece in pieces:
            watch.first()
            if on_text is not None:
                on_text(piece)
        return pieces.result

    def _count(self, scope: Scope, prompt: _Prompt, loaded: Loaded | None, misses: Sequence[Miss]) -> None:
        if prompt.cover is not None and (loaded is not None or misses):
            self._activation.reuse.count(scope, prompt.cover, tokens=prompt.covered if loaded is not None else 0)


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
        tokens_recomputed=len(prompt.tokens) - reused,
        tokens_missed=prompt.covered if misses else 0,
        milliseconds=milliseconds,
    )
    return ChatReply(
        text=generated.text,
        finish_reason=generated.finish_reason,
        model=serving.loaded.name,
        usage=usage,
        tiers=_tiers(prompt, reused=bool(reused)),
        misses=tuple(misses),
    )


def _tiers(prompt: _Prompt, *, reused: bool) -> dict[str, tuple[str, ...]]:
    """Return which cubes are in the prompt, by the tier they came from: a bundle computed anew came as plaintext."""
    beside = tuple(note.cube_id for note in prompt.notes)
    if prompt.cover is None:
        return {"plaintext": beside}
    if reused:
        return {"activation": (prompt.cover.activation.cube_id,), "plaintext": beside}
    return {"plaintext": (*(note.cube_id for note in prompt.cover.bundle.notes), *beside)}


def _plain(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [message.model_dump() for message in messages]
