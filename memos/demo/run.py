"""The demo from beginning to end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from memos.config import Settings
from memos.demo import composed, forgetting, moves, notes, parametric, show, steps, tiers
from memos.demo.material import FRIENDS, READER, Batch, Question, load
from memos.demo.timing import Stopwatch, quantiles
from memos.embedding.base import Embedder
from memos.embedding.local import LocalEmbedder
from memos_sdk import Memory
from memos_sdk.errors import InvalidInput

Report = dict[str, Any]
#: Embedding is in it. Notes are being written since the first write.
STORING = "storing, and writing notes"


def run_demo(
    console: Console,
    *,
    json: bool = False,
    embedder: Embedder | None = None,
    training: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Store, ask, explain, forget and reopen in a temporary store; show it as it happens, return what was shown.

    With ``json`` nothing is printed but the returned data. Without ``embedder`` the bundled model is used. ``training``
    are options of the training of an adapter.
    """
    settings = Settings()
    if settings.database_url or settings.chroma_url:
        raise InvalidInput("the demo works in a store of its own: unset MEMOS_DATABASE_URL and MEMOS_CHROMA_URL")
    screen = Console(quiet=True) if json else console
    with TemporaryDirectory(prefix="memos-demo-") as folder:
        chosen = embedder or LocalEmbedder()
        demo = _Demo(Path(folder), chosen, screen, progress=console.is_terminal and not json, training=training)
        report = demo.run()
    if json:
        console.print_json(data=report, ensure_ascii=False)
    return report


class _Demo:
    """One run: the store's folder, the clock, and the two times the store is opened."""

    def __init__(
        self,
        folder: Path,
        embedder: Embedder,
        screen: Console,
        *,
        progress: bool,
        training: Mapping[str, Any] | None,
    ) -> None:
        self._training = training
        self._watch = Stopwatch()
        self._folder = folder
        self._screen = screen
        self._progress = progress
        self._embedder = embedder
        self._report: Report = {}

    def run(self) -> Report:
        batches, questions = load()
        with self._watch.measure("loading the embedding model"):
            self._embedder.embed(["ready"])
        with self._open("opening a new store") as memory:
            self._store(memory, batches)
            self._ask(memory, questions)
            self._narrow(memory)
            self._chat(memory)
            self._forget(memory, batches)
            kept = _glance(memory, questions)
        self._reopen(batches, questions, kept)
        self._time()
        return self._report

    def _open(self, name: str) -> Memory:
        with self._watch.measure(name):
            return Memory(path=self._folder, embedder=self._embedder)

    def _store(self, memory: Memory, batches: list[Batch]) -> None:
        with self._watch.measure(STORING):
            stored = steps.store(memory, batches, progress=self._progress)
        stored["namespaces"] = [memory.stats(user_id=user_id).model_dump(mode="json") for user_id in (FRIENDS, READER)]
        self._report["stored"] = stored
        show.stored(self._screen, stored)
        with self._watch.measure(STORING):
            self._report["notes"] = notes.written(memory)
        show.notes(self._screen, self._report["notes"])

    def _ask(self, memory: Memory, questions: list[Question]) -> None:
        with self._watch.measure("asking"):
            answers = [steps.ask(memory, question) for question in questions]
        self._report |= {"answers": answers, "score": steps.score(answers)}
        show.answers(self._screen, answers)

    def _narrow(self, memory: Memory) -> None:
        with self._watch.measure("explaining, filtering, fitting a budget"):
            self._report["explained"] = steps.explain(memory)
            self._report["narrowed"] = steps.narrow(memory)
            self._report["context"] = steps.budget(memory, self._embedder)
        show.explained(self._screen, self._report["explained"])
        show.narrowed(self._screen, self._report["narrowed"])
        show.context(self._screen, self._report["context"])

    def _chat(self, memory: Memory) -> None:
        with self._watch.measure("chatting with a memory, computed and reloaded"):
            self._report["tiers"] = tiers.tiers(memory)
        show.tiers(self._screen, self._report["tiers"])
        with self._watch.measure("chatting with several memories in one prompt, each computed alone"):
            self._report["composed"] = composed.composed(memory)
        show.composed(self._screen, self._report["composed"])
        with self._watch.measure("training four facts into an adapter, asking all tiers"):
            self._report["parametric"] = parametric.parametric(memory, self._training, progress=self._progress)
        show.parametric(self._screen, self._report["parametric"])
        with self._watch.measure("moving what is used a lot"):
            self._report["moves"] = moves.moves(memory)
        show.moves(self._screen, self._report["moves"])

    def _forget(self, memory: Memory, batches: list[Batch]) -> None:
        with self._watch.measure("forgetting, and looking for what is left"):
            pieces = forgetting.unique_fragments(batches)
            self._report["forgotten"] = forgetting.forget(memory, self._folder, pieces)
            notes.settle(memory)
        show.forgotten(self._screen, self._report["forgotten"])

    def _reopen(self, batches: list[Batch], questions: list[Question], kept: Report) -> None:
        files = forgetting.traces(self._folder, forgetting.unique_fragments(batches))
        with self._open("opening it again") as memory:
            again = _glance(memory, questions)
            gone = forgetting.remains(memory, self._report["forgotten"]["memory"]["id"])
        persisted = {**again, "same": again == kept, "forgotten": {**gone, "files": files}}
        self._report["reopened"] = persisted
        show.reopened(self._screen, persisted)

    def _time(self) -> None:
        answers = self._report["answers"]
        embedding = [answer["embedding_milliseconds"] for answer in answers]
        whole = [answer["milliseconds"] for answer in answers]
        self._report["time"] = {
            "seconds": dict(self._watch.seconds),
            "total": self._watch.total,
            "recall_ms": quantiles(whole),
            "recall_without_embedding_ms": quantiles(
                [total - part for total, part in zip(whole, embedding, strict=True)]
            ),
        }
        show.spent(self._screen, self._report["time"])
        show.summary(self._screen, self._report["score"])


def _glance(memory: Memory, questions: list[Question]) -> Report:
    """Return how much a store holds and what it answers to the first questions of each user."""
    asked = (questions[0], questions[-1])
    return {
        "memories": sum(memory.stats(user_id=user).memories for user in (FRIENDS, READER)),
        "answers": {
            question.text: [hit.id for hit in memory.recall(question.text, user_id=question.user_id).hits]
            for question in asked
        },
    }
