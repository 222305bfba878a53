"""Prometheus metrics of one process. Labels name routes, tiers and stages, never users: nobody reads who is here."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from memos.llm.messages import ChatReply
from memos.plaintext.recall import RecallResult

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Counters that routes and the edge feed."""

    def __init__(self) -> None:
        self.registry = here = CollectorRegistry()
        route = ["method", "route"]
        self.requests = Counter("memos_requests", "Requests answered.", [*route, "status"], registry=here)
        self.seconds = Histogram(
            "memos_request_seconds", "Time to the end of an answer.", route, buckets=SECONDS, registry=here
        )
        self.in_flight = Gauge("memos_requests_in_flight", "Requests being answered.", registry=here)
        self.stages = Histogram(
            "memos_recall_stage_seconds", "Time of each stage of recall.", ["stage"], buckets=SECONDS, registry=here
        )
        self.stored = Counter("memos_memories_stored", "Memories stored.", registry=here)
        self.recalled = Counter("memos_memories_recalled", "Memories returned by recall.", registry=here)
        self.tokens = Counter(
            "memos_prompt_tokens", "Tokens of chat prompts, by how they came.", ["how"], registry=here
        )
        self.replies = Counter("memos_chat_cubes", "Cubes that chats were answered with.", ["tier"], registry=here)
        self.misses = Counter(
            "memos_cache_misses", "KV files and adapters that should have served and did not.", registry=here
        )
        self.waiting = Gauge("memos_pool_taken", "Work that runs or waits in a pool.", ["pool"], registry=here)
        self.held = Gauge("memos_held", "What the store holds.", ["what"], registry=here)
        self.jobs = Gauge("memos_jobs", "Jobs, by state.", ["state"], registry=here)
        self.queued = Gauge("memos_jobs_queued", "Jobs that wait, by task.", ["task"], registry=here)
        self.ended = Counter("memos_jobs_ended", "Jobs that ended, in all processes.", ["task", "state"], registry=here)
        self.prefetched = Counter(
            "memos_prefetched",
            "What became of prefetching, in hits, misses and bytes.",
            ["what"],
            registry=here,
        )
        self._ended: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._prefetched: defaultdict[str, int] = defaultdict(int)
        self._counting = threading.Lock()

    def served(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self.requests.labels(method, route, str(status)).inc()
        self.seconds.labels(method, route).observe(seconds)

    def recall(self, result: RecallResult) -> None:
        """Count one recall."""
        self.recalled.inc(len(result.hits))
        for stage, milliseconds in result.timings.items():
            self.stages.labels(stage).observe(milliseconds / 1e3)

    def chat(self, reply: ChatReply) -> None:
        """Count what a chat was answered with."""
        usage = reply.usage
        for how, tokens in (
            ("reused", usage.tokens_reused),
            ("shared", usage.tokens_shared),
            ("recomputed", usage.tokens_recomputed),
        ):
            self.tokens.labels(how).inc(tokens)
        for tier, cubes in reply.tiers.items():
            self.replies.labels(tier).inc(len(cubes))
        self.misses.inc(len(reply.misses))

    def jobs_ended(self, counts: Mapping[tuple[str, str], int]) -> None:
        """Take over how many jobs ended by task and state, which the database counts: most end in other processes."""
        with self._counting:
            for labels, count in counts.items():
                self.ended.labels(*labels).inc(max(0, count - self._ended[labels]))
                self._ended[labels] = count

    def prefetch(self, counts: Mapping[str, int]) -> None:
        """Take over what the engine counted of prefetching."""
        with self._counting:
            for what, count in counts.items():
                self.prefetched.labels(what).inc(max(0, count - self._prefetched[what]))
                self._prefetched[what] = count

    def text(self) -> bytes:
        """Return everything in the text format."""
        return generate_latest(self.registry)
