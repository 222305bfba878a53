"""What the tiers are worth, end to end: an agent that takes up LoCoMo's conversations again, thread by thread.

Each conversation is a user, each of its sessions a thread (`run_id`), each turn a memory. Of the questions whose
evidence lies within one thread, every other one is history: it is asked in each of three visits to the thread, so that
memories become hot. Then the scheduler plans and moves, as `mem.plan(dry_run=False)` does, and the other questions,
which nobody asked before, are asked once, in an order by chance. Arms, question by question in turn, one model, greedy,
two threads:

  plaintext   the text of what recall finds, every token of the prompt computed
  shared      the same, beginnings of prompts that are still in memory reused
  tiers       as users get it: KV files where the scheduler made one that covers what recall finds

Two kinds of chats: `thread` looks into the thread's memories, with as many as fit the prompt (top_k 20); `anywhere`
looks into all memories of the user (top_k 10), which the files of single threads hardly cover; a third of the
questions is asked so.
Time to first token counts from the call: recall, lookup, reading, prefill. `ll` is the mean log probability of a token
of the gold answer behind the prompt that the arm ran, in nats. Bytes are those of the KV files beside those of the
text.
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from harness import Report, interval, parser, table
from held import Held
from recall_quality import Conversation, locomo

from memos.config import Settings
from memos.cube import Scope
from memos.engine import MemoryOS
from memos.runtime.chat import ChatFormat
from memos.runtime.host import Serving
from memos.runtime.loading import load_model
from memos.runtime.loop import Generation, Request, Runtime
from memos.store.jobs import FINAL

VISITS = 3
#: How a chat looks for memories: within the thread, or anywhere.
KINDS = {"thread": 20, "anywhere": 10}
ARMS = ("plaintext", "shared", "tiers")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about one thread of a user, and the answer."""

    user: str
    thread: str
    text: str
    answer: str


class Heard(Runtime):
    """Keeps the prompt of the last request."""

    prompt: tuple[int, ...] = ()

    def generate(self, request: Request) -> Generation:
        """Note what is asked, and answer."""
        self.prompt = request.tokens
        return super().generate(request)


def main() -> int:
    """Replay everything."""
    options = parser(__doc__ or "", data=True, parts=tuple(KINDS)).parse_args()
    torch.set_num_threads(2)
    report = Report("tiers", options)
    if not options.data:
        return report.without_data("ttft_tiered_vs_plaintext", "answer_ll_delta")
    kinds = report.begin(tuple(KINDS))
    loaded = load_model()
    runtime = Heard(loaded)
    serving = Serving(loaded, runtime, ChatFormat(loaded))
    conversations = locomo(Path(options.data))[: 1 if options.quick else None]
    with tempfile.TemporaryDirectory(prefix="memos-bench-") as home:
        settings = Settings(home=Path(home))
        with MemoryOS(settings, None, Held(serving)) as engine:
            Replay(report, engine, runtime, serving, conversations, Path(options.data)).run(kinds)
    report.finish()
    return 0


class Replay:
    """One run. The arms without files ask in a user's twin, which has the same memories and none of the files."""

    def __init__(
        self,
        report: Report,
        engine: MemoryOS,
        runtime: Heard,
        serving: Serving,
        conversations: Sequence[Conversation],
        data: Path,
    ) -> None:
        self._report = report
        self._engine = engine
        self._runtime = runtime
        self._serving = serving
        self._conversations = conversations
        self._history, self._asked = _split(questions(data, {one.name for one in conversations}))
        if report.arguments.quick:
            self._asked = self._asked[:24]

    def run(self, kinds: Sequence[str]) -> None:
        """Store, visit, plan, ask."""
        for conversation in self._conversations:
            for twin in ("plain", "tiers"):
                self._engine.store_many(_user(conversation.name, twin), conversation.turns)
        print(f"{len(self._history)} questions are history, {len(self._asked)} are asked", flush=True)
        for _ in range(VISITS):
            for asked in self._history:
                self._engine.recall(_user(asked.user, "tiers", asked.thread), asked.text, top_k=KINDS["thread"])
        seconds = self._move()
        for kind in kinds:
            asked_now = self._asked if kind == "thread" else self._asked[::3]
            rows = [row for asked in asked_now for row in self._ask(asked, kind, KINDS[kind])]
            self._tell(kind, rows)
        if "anywhere" in kinds:
            self._bytes(seconds)

    def _move(self) -> float:
        """Carry out what the scheduler plans; return the seconds it took."""
        start = time.perf_counter()
        for conversation in self._conversations:
            scope = _user(conversation.name, "tiers")
            moves = self._engine.plan(scope, dry_run=False)
            for move in moves:
                while (job := self._engine.job(scope.tenant, str(move.job_id))).state not in FINAL:
                    time.sleep(0.05)
                if job.error:
                    raise RuntimeError(job.error)
            print(f"{conversation.name}: {len(moves)} files, such as: {moves[0].reason if moves else '-'}", flush=True)
        return time.perf_counter() - start

    def _ask(self, asked: Asked, kind: str, top_k: int) -> Iterator[dict[str, Any]]:
        arms = list(ARMS)
        random.Random(asked.text).shuffle(arms)
        for arm in arms:
            twin = "tiers" if arm == "tiers" else "plain"
            scope = _user(asked.user, twin, asked.thread if kind == "thread" else None)
            messages = [{"role": "user", "content": asked.text}]
            reuse = arm != "plaintext"
            reply = self._engine.chat(scope, messages, top_k=top_k, max_tokens=1, reuse=reuse)
            spent = reply.usage.milliseconds
            yield {
                "arm": arm,
                "ms": spent["first_token"],
                **{name: spent[name] for name in ("recall", "lookup", "read", "decode", "prefill")},
                "prompt": reply.usage.prompt_tokens,
                "computed": reply.usage.tokens_recomputed,
                "from_file": bool(reply.usage.tokens_reused),
                "ll": None if arm == "shared" else self._likelihood(asked.answer),
            }

    def _likelihood(self, answer: str) -> float:
        """Return the mean log probability of the answer's tokens behind the last prompt, in nats."""
        prompt, wanted = self._runtime.prompt, tuple(self._serving.format.encode_text(answer))
        logits = self._runtime.logits((*prompt, *wanted))[len(prompt) - 1 : -1]
        chosen = torch.log_softmax(logits.float(), -1).gather(1, torch.tensor(wanted)[:, None])
        return float(chosen.mean())

    def _tell(self, kind: str, rows: Sequence[dict[str, Any]]) -> None:
        by_arm: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            by_arm[row["arm"]].append(row)
        plain = by_arm["plaintext"]
        for arm in ARMS:
            mine = by_arm[arm]
            told = {name: statistics.median(row[name] for row in mine) for name in list(mine[0])[1:8]}
            told["p95_ms"] = statistics.quantiles([row["ms"] for row in mine], n=20)[-1]
            told["prompt"] = statistics.median(row["prompt"] for row in mine)
            told["computed"] = statistics.median(row["computed"] for row in mine)
            told["from_file"] = statistics.mean(row["from_file"] for row in mine)
            told["ll"] = None if arm == "shared" else statistics.mean(row["ll"] for row in mine)
            self._report.rows.append({"part": kind, "arm": arm, "questions": len(mine), **told})
        deltas = [tiers["ll"] - text["ll"] for tiers, text in zip(by_arm["tiers"], plain, strict=True)]
        suffix = "" if kind == "thread" else f"_{kind}"
        tiers = statistics.median(row["ms"] for row in by_arm["tiers"])
        figures = self._report.figures
        figures[f"ttft_tiered_vs_plaintext{suffix}"] = tiers / statistics.median(row["ms"] for row in plain)
        figures[f"ttft_tiered_vs_shared{suffix}"] = tiers / statistics.median(row["ms"] for row in by_arm["shared"])
        figures[f"answer_ll_delta{suffix}"] = statistics.mean(deltas)
        low, high = interval(deltas)
        self._report.notes.append(
            f"{kind}: answer_ll_delta{suffix} has a 95 % bootstrap interval {low:.3f} to {high:.3f}"
        )
        table(self._report.rows)
        self._report.save()

    def _bytes(self, seconds: float) -> None:
        files = [file for one in self._conversations for file in self._engine.kv_files(_user(one.name, "tiers"))]
        text = sum(len(text.encode()) for one in self._conversations for text in one.texts)
        self._report.figures["kv_bytes_per_byte_of_text"] = sum(file.bytes for file in files) / text
        self._report.rows.append(
            {
                "part": "anywhere",
                "files": len(files),
                "MB": sum(file.bytes for file in files) / 1e6,
                "text_MB": text / 1e6,
                "seconds_to_make": seconds,
            }
        )
        table(self._report.rows[-1:])


def questions(data: Path, users: set[str]) -> Iterator[Asked]:
    """Yield the questions with an answer whose evidence lies within one session."""
    for item in json.loads((data / "locomo" / "locomo_dev.json").read_text()):
        for asked in item["qa"] if item["sample_id"] in users else ():
            threads = {f"session_{one.split(':')[0][1:]}" for one in asked.get("evidence", ())}
            if asked["category"] != 5 and "answer" in asked and len(threads) == 1:
                yield Asked(item["sample_id"], threads.pop(), asked["question"], str(asked["answer"]))


def _split(asked: Iterator[Asked]) -> tuple[list[Asked], list[Asked]]:
    """Return every other question of each thread as history, the others in an order by chance."""
    threads: defaultdict[tuple[str, str], list[Asked]] = defaultdict(list)
    for one in asked:
        threads[one.user, one.thread].append(one)
    history = [one for some in threads.values() for one in some[::2]]
    new = [one for some in threads.values() for one in some[1::2]]
    random.Random(0).shuffle(new)
    return history, new


def _user(conversation: str, twin: str, thread: str | None = None) -> Scope:
    return Scope(user_id=f"{conversation} {twin}", run_id=thread)


if __name__ == "__main__":
    raise SystemExit(main())
