"""Prefetching, replayed on LoCoMo: how often what a question needs is in host memory already.

Every session is bundled into KV files of at most 1,024 tokens (characters / 4) of the bundled model in float32; the
memories of a question are its gold evidence. Orders of the questions, a minute apart:

told      as the data set has them: through all sessions, once per kind of question. Somebody goes through things
unfolds   each after the session that completes its evidence, at that session's time of day; files come to be on the way
shuffled  at random: nothing but popularity can be known, so what seems to be is not there
habits    no LoCoMo but generated: eight files, each at its hours of the day four times out of five. For the hour alone

All share the same bytes: lru has them all for what was used; the others give a part to what is prefetched, by heat
alone, by the predictor, or by an oracle that knows the next question. A turn is linked
with the four earlier ones nearest to it, as notes link.

    in_memory   of the uses that need a file, the share that find it in memory
    hit_rate    of the uses that did not find it because it was used, the share that find it because it was prefetched
    waste       of the bytes that were prefetched, the share that was dropped unused

Constants were chosen with --choose on conversations 26 and 30, in the order "told"; all figures are from 41 and 42.
"""

from __future__ import annotations

import importlib
import json
import random
import statistics
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from harness import Report, parser, table

from memos.config import Settings
from memos.cube import Kind, Scope
from memos.engine import MemoryOS
from memos.schedule.foresight import prefetcher as prefetching
from memos.schedule.foresight.candidate import Candidate, Catalogue
from memos.schedule.foresight.history import OPINIONS
from memos.schedule.foresight.mixture import Mixture
from memos.schedule.foresight.predictor import Predictor
from memos.schedule.foresight.prefetcher import BYTE_S, OPEN_S, Prefetcher, key_of
from memos.schedule.foresight.reading import Reading
from memos.schedule.foresight.staging import Offer, Staging
from memos.schedule.foresight.use import Use
from memos.schedule.heat import Cooling
from memos.transfer.formats.locomo import session_time

USER = Scope(user_id="bench")
OWNER = (USER.tenant, USER.user_id)
TUNED, REPORTED = ("conv-26", "conv-30"), ("conv-41", "conv-42")
ORDERS = ("told", "unfolds", "shuffled", "habits")
#: Bytes of host memory, as shares of all files, and the share of them that is for prefetching, as the defaults have it.
BUDGETS, AHEAD = (0.15, 0.3, 0.6), 0.2
MAIN = 0.3
#: Links of a turn to earlier ones, and how alike they have to be (cosine).
LINKS, ALIKE = 4, 0.5
TOKEN_BYTES, FILE_TOKENS, CHARACTERS = 46_080, 1_024, 4
MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Asked:
    """One use, with the files that there are by then."""

    use: Use
    catalogue: Catalogue


@dataclass
class Conversation:
    """The turns of a conversation by id, its questions, and the links of its memories."""

    name: str
    sessions: list[tuple[datetime, list[tuple[str, str]]]]
    questions: list[tuple[str, ...]]
    links: dict[str, list[tuple[str, float]]] = field(default_factory=dict)

    def files(self) -> list[list[Candidate]]:
        """Return the files of each session."""
        made = []
        for _, turns in self.sessions:
            bundles: list[list[tuple[str, str]]] = [[]]
            for turn in turns:
                if _tokens([*bundles[-1], turn]) > FILE_TOKENS:
                    bundles.append([])
                bundles[-1].append(turn)
            made.append([_file(bundle) for bundle in bundles])
        return made


def main() -> int:
    """Measure everything."""
    made = parser(__doc__ or "", data=True)
    made.add_argument("--choose", action="store_true", help="also show how the constants were chosen")
    options = made.parse_args()
    report = Report("prefetch", options)
    if options.data:
        known = {one.name: one for one in conversations(Path(options.data))}
        _link([known[name] for name in REPORTED])
        _replays(report, [known[name] for name in REPORTED])
        report.save()
        if options.choose:
            _choose(report, [known[name] for name in TUNED])
    else:
        for key in ("prefetch_hit_rate", "prefetch_waste_share", "prefetch_vs_lru_hit_rate"):
            report.missing(key, "no --data")
    _cost(report, 40 if options.quick else 100)
    report.save()
    _first_token(report, 3 if options.quick else 5)
    table(report.rows)
    report.finish()
    return 0


# ------------------------------------------------------------ workloads


def conversations(folder: Path) -> Iterator[Conversation]:
    """Yield the conversations, without links."""
    for raw in json.loads((folder / "locomo" / "locomo_dev.json").read_text()):
        said = raw["conversation"]
        numbers = sorted(int(key.split("_")[1]) for key in said if key.startswith("session_") and key.count("_") == 1)
        sessions = []
        for number in numbers:
            turns = [(turn["dia_id"], f"{turn['speaker']}: {turn['text']}") for turn in said[f"session_{number}"]]
            sessions.append((session_time(said[f"session_{number}_date_time"]) or datetime.now(UTC), turns))
        there = {turn for _, turns in sessions for turn, _ in turns}
        evidence = [tuple(one for one in asked["evidence"] if one in there) for asked in raw["qa"]]
        yield Conversation(raw["sample_id"], sessions, [one for one in evidence if one])


def _link(known: Sequence[Conversation]) -> None:
    """Link every turn with the nearest earlier ones by embedding, the semantic links of notes."""
    with tempfile.TemporaryDirectory() as home, MemoryOS(Settings(home=Path(home), notes="off")) as engine:
        for conversation in known:
            turns = [turn for _, session in conversation.sessions for turn in session]
            vectors, _ = engine.embed([text for _, text in turns])
            alike = np.tril(vectors @ vectors.T, -1)
            for row, (mine, _) in enumerate(turns):
                for near in np.argsort(-alike[row], kind="stable")[:LINKS].tolist():
                    if (strength := float(alike[row, near])) >= ALIKE:
                        conversation.links.setdefault(mine, []).append((turns[near][0], strength))
                        conversation.links.setdefault(turns[near][0], []).append((mine, strength))


def workload(conversation: Conversation, order: str) -> list[Asked]:
    """Return the uses of a conversation in an order."""
    if order == "habits":
        return _habits(conversation.name)
    files = conversation.files()
    whole = Catalogue(tuple(one for session in files for one in session))
    if order == "unfolds":
        return _unfolding(conversation, files)
    questions = list(conversation.questions)
    if order == "shuffled":
        random.Random(0).shuffle(questions)
    begin = conversation.sessions[-1][0]
    return [Asked(_use(conversation, ids, begin + number * MINUTE), whole) for number, ids in enumerate(questions)]


def _unfolding(conversation: Conversation, files: list[list[Candidate]]) -> list[Asked]:
    session_of = {turn: at for at, (_, turns) in enumerate(conversation.sessions) for turn, _ in turns}
    asked = []
    for at, (begin, _) in enumerate(conversation.sessions):
        there = Catalogue(tuple(one for session in files[: at + 1] for one in session))
        now = [ids for ids in conversation.questions if max(session_of[one] for one in ids) == at]
        asked += [Asked(_use(conversation, ids, begin + n * MINUTE), there) for n, ids in enumerate(now, 1)]
    return asked


def _habits(name: str) -> list[Asked]:
    """Eight files; at each of four hours of the day it is mostly one of two."""
    chance = random.Random(name)
    files = [_file([(f"{name}/{at}", "x" * CHARACTERS * 600)]) for at in range(8)]
    begin, asked = datetime(2025, 1, 1, tzinfo=UTC), []
    for day in range(60):
        for place, hour in enumerate((7, 12, 17, 21)):
            likely = files[2 * place + day % 2]
            one = likely if chance.random() < 0.8 else chance.choice(files)
            at = begin + timedelta(days=day, hours=hour)
            asked.append(Asked(Use(_us(at), (None, None), tuple(one.notes)), Catalogue(tuple(files))))
    return asked


def _use(conversation: Conversation, ids: tuple[str, ...], at: datetime) -> Use:
    links = tuple(link for one in ids for link in conversation.links.get(one, ()))
    return Use(_us(at), (None, None), ids, links)


def _file(bundle: Sequence[tuple[str, str]]) -> Candidate:
    size = _tokens(bundle) * TOKEN_BYTES
    name = bundle[0][0]
    return Candidate(name, Kind.ACTIVATION, name, size, size, frozenset(turn for turn, _ in bundle))


def _tokens(turns: Sequence[tuple[str, str]]) -> int:
    return sum(len(text) for _, text in turns) // CHARACTERS


def _us(at: datetime) -> int:
    return int(at.timestamp() * 1e6)


# ------------------------------------------------------------ replay


@dataclass
class Outcome:
    """Uses that needed a file, those that found it in memory, and what became of prefetching."""

    needed: int = 0
    used_before: int = 0
    hits: int = 0
    bytes: int = 0
    wasted: int = 0
    #: What was predicted of each file that was not in memory, and whether it was needed next.
    predicted: list[tuple[float, bool]] = field(default_factory=list)

    @property
    def in_memory(self) -> float:
        """The share of uses that found their file in memory."""
        return (self.used_before + self.hits) / max(1, self.needed)

    @property
    def hit_rate(self) -> float:
        """Of those that did not find it because it was used, the share that found it prefetched."""
        return self.hits / max(1, self.needed - self.used_before)

    @property
    def waste(self) -> float:
        """The share of prefetched bytes that was dropped unused."""
        return self.wasted / max(1, self.bytes)

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


#: Says what is needed next: given the predictor, and what will be.
Foretell = Callable[[Predictor, str | None], Mapping[str, float]]


class Only(Mixture):
    """Listens to one opinion."""

    def __init__(self, opinion: str) -> None:
        super().__init__(len(OPINIONS))
        self.weights = [float(one == opinion) for one in OPINIONS]

    def learn(self, opinions: Sequence[float]) -> None:
        """Stay so."""


def _predicted(predictor: Predictor, following: str | None) -> Mapping[str, float]:
    return predictor.predict()


def _known(predictor: Predictor, following: str | None) -> Mapping[str, float]:
    return {} if following is None else {following: 1.0}


#: What is compared, with the share of all bytes that is for prefetching.
SYSTEMS: dict[str, tuple[Foretell, str | None, float]] = {
    "lru": (_known, "heat", 0.0),
    "heat": (_predicted, "heat", AHEAD),
    "session": (_predicted, "session", AHEAD),
    "links": (_predicted, "links", AHEAD),
    "hour": (_predicted, "hour", AHEAD),
    "predictor": (_predicted, None, AHEAD),
    "oracle": (_known, "heat", AHEAD),
}


def replay(asked: Sequence[Asked], share: float, system: str) -> Outcome:
    """Replay uses with a cache of what was used, and beside it what is prefetched between two uses."""
    foretell, opinion, ahead = SYSTEMS[system]
    files = {one.cube_id: one for each in asked for one in each.catalogue.candidates}
    room = round(share * sum(one.bytes for one in files.values()))
    clock = SimpleNamespace(now=0.0)
    largest = max(one.bytes for one in files.values()) if ahead else 0
    staging = Staging(max(round(ahead * room), largest), lambda: clock.now)
    predictor, cache, found = Predictor(Only(opinion) if opinion else None), _LRU(room - staging.limit), Outcome()
    needs = [each.catalogue.needed(each.use.ids) for each in asked]
    there: Catalogue | None = None
    for each, need, following in zip(asked, needs, [*needs[1:], None], strict=True):
        clock.now = each.use.at / 1e6
        if each.catalogue is not there:
            there = each.catalogue
            predictor.follow(there)
        if need is not None:
            found.needed += 1
            if cache.use(files[need]):
                found.used_before += 1
            else:
                staging.take(key_of(files[need]), OWNER)
        predictor.learn(each.use)
        chances = foretell(predictor, following)
        found.predicted += [(chance, one == following) for one, chance in chances.items() if one not in cache.kept]
        _stage(staging, cache, [(files[one], chance) for one, chance in chances.items()])
    counts = staging.counts()
    return replace(found, hits=counts.hits, bytes=counts.bytes, wasted=counts.wasted_bytes)


def _stage(staging: Staging, cache: _LRU, chances: Sequence[tuple[Candidate, float]]) -> None:
    """Do what the prefetcher does, without files."""
    staging.predict(OWNER, {key_of(one): chance for one, chance in chances})
    offers = [
        Offer(key_of(one), OWNER, one.bytes, OPEN_S + one.file_bytes * BYTE_S, chance)
        for one, chance in chances
        if chance >= prefetching.LEAST and one.cube_id not in cache.kept
    ]
    for offer in sorted(offers, key=lambda offer: -offer.worth):
        if staging.admit(offer):
            staging.fill(offer.key, offer)


class _LRU:
    """What was used, as :class:`memos.activation.hot.HotFiles` keeps it."""

    def __init__(self, room: int) -> None:
        self._room = room
        self.kept: OrderedDict[str, int] = OrderedDict()

    def use(self, one: Candidate) -> bool:
        """Count a use; return whether it was there."""
        there = self.kept.pop(one.cube_id, None) is not None
        if one.bytes <= self._room:
            self.kept[one.cube_id] = one.bytes
        while sum(self.kept.values()) > self._room:
            self.kept.popitem(last=False)
        return there


def _replays(report: Report, known: Sequence[Conversation]) -> None:
    outcomes: dict[tuple[str, str, float], Outcome] = {}
    for order in ORDERS:
        works = [workload(one, order) for one in known]
        for system in SYSTEMS:
            row: dict[str, Any] = {"order": order, "prefetch": system}
            for share in BUDGETS:
                found = sum((replay(work, share, system) for work in works), Outcome())
                outcomes[order, system, share] = found
                row |= {f"in_memory_{share:.0%}": found.in_memory, f"hit_rate_{share:.0%}": found.hit_rate}
                row |= {f"waste_{share:.0%}": found.waste}
            report.rows.append(row)
    for order in ORDERS:
        mine, lru, heat = (outcomes[order, system, MAIN] for system in ("predictor", "lru", "heat"))
        end = "" if order == "told" else f"_{order}"
        report.figures[f"prefetch_hit_rate{end}"] = mine.hit_rate
        report.figures[f"prefetch_waste_share{end}"] = mine.waste
        report.figures[f"prefetch_vs_lru_hit_rate{end}"] = mine.in_memory / lru.in_memory
        report.figures[f"prefetch_vs_heat_hit_rate{end}"] = mine.in_memory / heat.in_memory
    _calibration(report, outcomes["told", "predictor", MAIN])


def _calibration(report: Report, found: Outcome) -> None:
    """Compare what was predicted of files that were not in memory with what became of them."""
    edges = (0.0, 0.03, 0.1, 0.2, 0.4, 1.01)
    for low, high in pairwise(edges):
        inside = [(chance, came) for chance, came in found.predicted if low <= chance < high]
        if inside:
            report.rows.append(
                {
                    "predicted": f"{low:.2f} to {min(high, 1):.2f}",
                    "predictions": len(inside),
                    "mean": statistics.mean(chance for chance, _ in inside),
                    "needed_next": statistics.mean(came for _, came in inside),
                }
            )


# ------------------------------------------------------------ constants


CHOICES: dict[str, tuple[float, ...]] = {
    "history.HALF_LIFE": (8, 32, 128, 512),
    "history.PRIOR": (0.25, 1, 4),
    "history.SPECIAL_PRIOR": (0.25, 1, 4),
    "mixture.RATE": (1 / 64, 1 / 16, 1 / 4),
    "prefetcher.LEAST": (0.01, 0.03, 0.1),
    "staging.EDGE": (1.0, 1.25, 2.0),
}


def _choose(report: Report, known: Sequence[Conversation]) -> None:
    """Try other constants, one by one, on the other conversations."""
    works = [workload(one, "told") for one in known]
    for name, values in CHOICES.items():
        module = importlib.import_module(f"memos.schedule.foresight.{name.split('.')[0]}")
        constant = name.split(".")[1]
        before = getattr(module, constant)
        for value in values:
            setattr(module, constant, value)
            found = sum((replay(work, MAIN, "predictor") for work in works), Outcome())
            row = {"constant": name, "value": value, "in_memory": found.in_memory, "hit_rate": found.hit_rate}
            report.rows.append({**row, "waste": found.waste, "chosen": value == before})
        setattr(module, constant, before)


# ------------------------------------------------------------ what it costs


def _cost(report: Report, questions: int) -> None:
    """Time what a recall waits for, and the learning and predicting behind it, beside recalls of 500 memories."""
    with tempfile.TemporaryDirectory() as home, MemoryOS(Settings(home=Path(home), notes="off")) as engine:
        texts = [{"text": f"On day {n} Ann left a thing of kind {n % 7} at place {n % 11}."} for n in range(500)]
        engine.store_many(USER, texts)
        whole, found = [], []
        for number in range(questions):
            start = time.perf_counter()
            found.append(engine.recall(USER, f"Where did Ann leave it on day {number * 7}?", top_k=10))
            whole.append(time.perf_counter() - start)
        model = SimpleNamespace(fingerprint="f", loaded=SimpleNamespace(identity=SimpleNamespace(base="b")))
        reading = Reading(engine.database, Cooling.days(7))
        told = Prefetcher(reading, SimpleNamespace(ready=model), Staging(1), {})  # type: ignore[arg-type]
        told.used(USER, found[0].hits)
        waited = [_timed(lambda one=one: told.used(USER, one.hits)) for one in found]
        told.wait(600)
        revision = reading.known(USER, "f", "b", None)
        assert revision is not None
        looked = [_timed(lambda: reading.known(USER, "f", "b", revision.revision)) for _ in found]
        told.close()
    learned = _learning([tuple(hit.id for hit in one.hits) for one in found])
    p50 = statistics.median(whole)
    waiting, behind = statistics.median(waited), statistics.median(looked) + learned
    report.rows.append(
        {"recall_p50_ms": p50 * 1e3, "waits_us": waiting * 1e6, "behind_us": behind * 1e6, "learning_us": learned * 1e6}
    )
    report.figures["prefetch_wait_share_of_recall"] = waiting / p50
    report.figures["prefetch_share_of_recall"] = (waiting + behind) / p50


def _learning(uses: Sequence[tuple[str, ...]]) -> float:
    """Return the median seconds to learn from a use and to predict, with 32 files of 10 memories."""
    ids = sorted({one for use in uses for one in use})
    bundles = [ids[at : at + 10] for at in range(0, min(len(ids), 320), 10)]
    files = tuple(Candidate(one[0], Kind.ACTIVATION, one[0], 1, 1, frozenset(one)) for one in bundles)
    predictor = Predictor()
    predictor.follow(Catalogue(files))
    spent = []
    for number, use in enumerate(uses):
        one = Use(number * 60_000_000, (None, None), use)
        spent.append(_timed(lambda one=one: (predictor.learn(one), predictor.predict())))
    return statistics.median(spent)


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _first_token(report: Report, times: int) -> None:
    """Time chats whose file was prefetched, and chats that read it; the file lies in the page cache either way."""
    with tempfile.TemporaryDirectory() as home, MemoryOS(Settings(home=Path(home), notes="off")) as engine:
        facts = [
            {"text": f"In year {n} the harbour master Ann wrote down that ship number {n} came from port {n % 7}."}
            for n in range(24)
        ]
        cubes = engine.store_many(USER, facts)
        job = engine.promote(USER.tenant, [cube.id for cube in cubes], to="activation")
        while engine.job(USER.tenant, job.id).result is None:
            time.sleep(0.1)
        spent: dict[str, list[tuple[float, float]]] = {"read": [], "prefetched": []}
        for number in range(2 * times + 2):
            for how, found in spent.items():
                engine.activation._hot.drop_all()
                if how == "read":
                    engine._staging.clear()
                else:
                    hits = engine.recall(USER, "where did ships come from?", top_k=24).hits
                    engine.activation._hot.drop_all()
                    engine._prefetcher.used(USER, hits)
                    engine._prefetcher.wait(60)
                asked = [{"role": "user", "content": f"where did ship number {number} come from?"}]
                reply = engine.chat(USER, asked, top_k=24, max_tokens=1)
                spent_ms = reply.usage.milliseconds
                found.append((spent_ms["first_token"] - spent_ms["recall"], spent_ms["read"] + spent_ms["decode"]))
        tokens = engine.kv_files(USER)[0].tokens
    medians = {how: [statistics.median(part) for part in zip(*found[2:], strict=True)] for how, found in spent.items()}
    for how, (first, loading) in medians.items():
        report.rows.append({"chat": how, "tokens": tokens, "first_token_ms": first, "load_ms": loading})
    report.figures["prefetch_ttft_saved_ms"] = medians["read"][0] - medians["prefetched"][0]


if __name__ == "__main__":
    raise SystemExit(main())
