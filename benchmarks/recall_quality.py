"""Does recall find the evidence? LoCoMo and BEAM, judged by gold evidence, without any LLM.

One memory per dialogue turn, one user per conversation. The figure is the mean over questions of the share of gold
evidence turns among the first k hits. Systems compared on identical vectors of the bundled MiniLM:

  memos    this project, through memos_sdk.Memory, memories as they are (infer=False)
  notes    the same with notes written by rules; without one of their parts ("no links", "no evolution"), with links
           followed by personalised PageRank over two hops ("pagerank"), and with every contradiction putting the newer
           memory first, whether it answers or not ("newer first")
  bm25     bm25s with its own English tokenizer and stop words, no stemming
  dense    a plain Chroma collection per conversation
  mem0     mem0 2.2.1 with infer=False on Chroma (dense only there), in its own virtual environment

LoCoMo's category 5 is left out: its adversarial answers are not in the conversation. Three questions with missing or
broken evidence ids are left out too (listed in the data's README). BEAM adds `beam_newest_first`: of the facts that
were updated or contradicted later in the chat and whose both statements are found, the share with the later statement
ranked first.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
from embedders import RememberingEmbedder
from harness import Report, interval, parser, peer_python, table
from noted import Noted, pagerank

DEPTHS = (5, 10, 20, 50)
LOCOMO_CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open", 4: "single-hop"}
BEAM_TYPES = (
    "information_extraction",
    "multi_session_reasoning",
    "temporal_reasoning",
    "knowledge_update",
    "contradiction_resolution",
)
#: Where BEAM names two statements of one thing, as it was and as it is; of contradictions the later one is newest.
STATEMENTS = {
    "knowledge_update": ("original_info", "updated_info"),
    "contradiction_resolution": ("first_statement", "second_statement"),
}
MEM0 = ("mem0ai==2.2.1", "chromadb==1.5.9", "numpy==2.4.6")


@dataclass
class Question:
    """A question with the indices of the turns that hold its evidence."""

    text: str
    gold: frozenset[int]
    category: str
    superseded: frozenset[int] = frozenset()
    newest: frozenset[int] = frozenset()


@dataclass
class Conversation:
    """Turns as ``store_many`` takes them, and questions about them."""

    name: str
    turns: list[dict[str, Any]] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        """The turns' texts."""
        return [turn["text"] for turn in self.turns]


NOTED: dict[str, dict[str, Any]] = {
    "notes": {},
    "no links": {"memos.plaintext.graph.SEEDS": 0},
    "pagerank": {"memos.plaintext.reader.follow": pagerank},
    "newer first": {"memos.plaintext.graph.WORTHY": 0.0},
}
SYSTEMS = ("memos", *NOTED, "no evolution", "bm25", "dense", "mem0")
Ranks = list[list[int]]
System = Callable[[Sequence[Conversation]], list[Ranks]]


# ---------------------------------------------------------------- data


def locomo(folder: Path) -> list[Conversation]:
    """Read every conversation in the LoCoMo files of a data folder."""
    files = sorted((folder / "locomo").glob("*.json"))
    return [_locomo(item) for file in files for item in json.loads(file.read_text())]


def _locomo(item: dict[str, Any]) -> Conversation:
    made = Conversation(item["sample_id"])
    place: dict[str, int] = {}
    spoken = item["conversation"]
    for key in sorted((k for k in spoken if re.fullmatch(r"session_\d+", k)), key=lambda k: int(k[8:])):
        moment = datetime.strptime(spoken[f"{key}_date_time"], "%I:%M %p on %d %B, %Y").replace(tzinfo=UTC)
        for turn in spoken[key]:
            place[turn["dia_id"]] = len(made.turns)
            caption = f" [shares {turn['blip_caption']}]" if turn.get("blip_caption") else ""
            text = f"{turn['speaker']}: {turn['text']}{caption}"
            made.turns.append({"text": text, "run_id": key, "event_time": moment, "infer": False})
    for asked in item["qa"]:
        ids = re.findall(r"D\d+:\d+", " ".join(asked.get("evidence", [])))  # some entries hold several
        if asked["category"] in LOCOMO_CATEGORIES and ids and all(i in place for i in ids):
            gold = frozenset(place[i] for i in ids)
            made.questions.append(Question(asked["question"], gold, LOCOMO_CATEGORIES[asked["category"]]))
    return made


def beam(folder: Path) -> list[Conversation]:
    """Read the eight BEAM chats of 100K tokens."""
    return [_beam(path.parent) for path in sorted((folder / "beam_100k").glob("*/chat.json"))]


def _beam(path: Path) -> Conversation:
    made = Conversation(f"beam-{path.name}")
    place: dict[int, int] = {}
    for batch in json.loads((path / "chat.json").read_text()):
        moment = None
        for message in (message for turn in batch["turns"] for message in turn):
            moment = _anchor(message.get("time_anchor") or batch.get("time_anchor")) or moment
            place[message["id"]] = len(made.turns)
            text = f"{message['role']}: {message['content'].split('->->')[0].strip()}"
            run = f"batch {batch['batch_number']}"
            made.turns.append({"text": text, "run_id": run, "event_time": moment, "infer": False})
    asked = json.loads((path / "probing_questions.json").read_text())
    for kind in BEAM_TYPES:
        made.questions += [_beam_question(question, kind, place) for question in asked.get(kind, [])]
    made.questions = [question for question in made.questions if question.gold]
    return made


def _beam_question(asked: dict[str, Any], kind: str, place: dict[int, int]) -> Question:
    sources = asked.get("source_chat_ids", [])
    gold = frozenset(place[i] for i in _leaves(sources) if i in place)
    superseded: frozenset[int] = frozenset()
    if kind in STATEMENTS and isinstance(sources, dict) and all(name in sources for name in STATEMENTS[kind]):
        one, other = (frozenset(place[i] for i in _leaves(sources[name]) if i in place) for name in STATEMENTS[kind])
        if one and other:
            earlier, later = sorted((one, other), key=max)
            superseded = earlier - later
        if kind == "knowledge_update":
            gold = other
        elif superseded:
            return Question(asked["question"], gold, kind, superseded, later)
    return Question(asked["question"], gold, kind, superseded)


def _leaves(value: Any) -> Iterator[int]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _anchor(value: str | None) -> datetime | None:
    return datetime.strptime(value, "%B-%d-%Y").replace(tzinfo=UTC) if value else None


# ---------------------------------------------------------------- systems


def memos(embedder: RememberingEmbedder) -> System:
    """This project, through its SDK."""

    def run(conversations: Sequence[Conversation]) -> list[Ranks]:
        from memos_sdk import Memory

        with tempfile.TemporaryDirectory() as home, Memory(path=home, embedder=embedder) as memory:
            return [_ask(memory, conversation) for conversation in conversations]

    return run


def _ask(memory: Any, conversation: Conversation) -> Ranks:
    cubes = memory.store_many(conversation.turns, user_id=conversation.name)
    place = {cube.id: index for index, cube in enumerate(cubes)}
    ranks = []
    for question in conversation.questions:
        found = memory.recall(question.text, user_id=conversation.name, top_k=max(DEPTHS))
        ranks.append([place[hit.id] for hit in found.hits])
    return ranks


def bm25(conversations: Sequence[Conversation]) -> list[Ranks]:
    """Plain BM25 over single turns."""
    return [_bm25(conversation) for conversation in conversations]


def _bm25(conversation: Conversation) -> Ranks:
    index = bm25s.BM25()
    index.index(bm25s.tokenize(conversation.texts, stopwords="en", show_progress=False), show_progress=False)
    questions = [question.text for question in conversation.questions]
    tokens = bm25s.tokenize(questions, stopwords="en", show_progress=False)
    depth = min(max(DEPTHS), len(conversation.turns))
    found, _ = index.retrieve(tokens, k=depth, show_progress=False)
    return [[int(place) for place in row] for row in found]


def dense(embedder: RememberingEmbedder) -> System:
    """A plain Chroma collection per conversation."""

    def run(conversations: Sequence[Conversation]) -> list[Ranks]:
        import chromadb
        from chromadb.config import Settings

        client = chromadb.EphemeralClient(Settings(anonymized_telemetry=False))
        return [_dense(client, conversation, embedder) for conversation in conversations]

    return run


def _dense(client: Any, conversation: Conversation, embedder: RememberingEmbedder) -> Ranks:
    collection = client.create_collection(conversation.name, embedding_function=None, metadata={"hnsw:space": "cosine"})
    ids = [str(place) for place in range(len(conversation.turns))]
    collection.add(ids=ids, embeddings=embedder.embed(conversation.texts))
    vectors = embedder.embed([question.text for question in conversation.questions])
    found = collection.query(query_embeddings=vectors, n_results=max(DEPTHS), include=[])
    return [[int(place) for place in row] for row in found["ids"]]


def mem0(embedder: RememberingEmbedder, report: Report) -> System:
    """mem0 without its LLM, in a virtual environment of its own (made once in .bench/)."""

    def run(conversations: Sequence[Conversation]) -> list[Ranks]:
        python = peer_python("mem0", MEM0)
        with tempfile.TemporaryDirectory() as work:
            request = _mem0_request(conversations, embedder, Path(work))
            (Path(work) / "request.json").write_text(json.dumps(request))
            script = Path(__file__).parent / "peers" / "mem0_search.py"
            files = [str(Path(work) / name) for name in ("request.json", "reply.json")]
            subprocess.run([python, str(script), *files], check=True, stdout=subprocess.DEVNULL)
            reply = json.loads((Path(work) / "reply.json").read_text())
        report.notes += [f"mem0 {reply['version']} on {reply['store']}: {note}" for note in reply["notes"]]
        return [reply["ranks"][conversation.name] for conversation in conversations]

    return run


def _mem0_request(conversations: Sequence[Conversation], embedder: RememberingEmbedder, work: Path) -> dict[str, Any]:
    namespaces = {}
    for number, conversation in enumerate(conversations):
        questions = [question.text for question in conversation.questions]
        paths = [work / f"{number}-{kind}.npy" for kind in ("turns", "questions")]
        for path, texts in zip(paths, (conversation.texts, questions), strict=True):
            np.save(path, embedder.embed(texts))
        namespaces[conversation.name] = {
            "texts": conversation.texts,
            "vectors_npy": str(paths[0]),
            "queries": questions,
            "queries_npy": str(paths[1]),
        }
    return {"namespaces": namespaces, "top_k": max(DEPTHS), "store": "chroma", "workdir": str(work)}


# ---------------------------------------------------------------- scoring


def shares(conversations: Sequence[Conversation], ranks: Sequence[Ranks], depth: int) -> list[tuple[str, float]]:
    """Return ``(category, share of gold evidence in the first depth hits)`` per question."""
    return [
        (question.category, len(question.gold & set(ranking[:depth])) / len(question.gold))
        for conversation, rankings in zip(conversations, ranks, strict=True)
        for question, ranking in zip(conversation.questions, rankings, strict=True)
    ]


def newest_first(conversations: Sequence[Conversation], ranks: Sequence[Ranks]) -> float | None:
    """Return how often an update ranks above the statement it supersedes, where both are among the hits."""
    verdicts = []
    for conversation, rankings in zip(conversations, ranks, strict=True):
        for question, ranking in zip(conversation.questions, rankings, strict=True):
            new, old = _first(ranking, question.newest or question.gold), _first(ranking, question.superseded)
            if max(new, old) < len(ranking):
                verdicts.append(new < old)
    return float(np.mean(verdicts)) if verdicts else None


def _first(ranking: Sequence[int], wanted: frozenset[int]) -> int:
    return next((place for place, index in enumerate(ranking) if index in wanted), len(ranking))


def score(
    report: Report,
    data: str,
    system: str,
    conversations: Sequence[Conversation],
    ranks: Sequence[Ranks],
) -> None:
    """Add the rows of one system on one data set."""
    categories = list(dict.fromkeys(q.category for c in conversations for q in c.questions))
    for category in ["all", *categories]:
        row: dict[str, Any] = {"data": data, "system": system, "category": category}
        for depth in DEPTHS:
            values = [share for kind, share in shares(conversations, ranks, depth) if category in ("all", kind)]
            row["questions"] = len(values)
            row[f"R@{depth}"] = float(np.mean(values))
            if depth == 10:
                row["low"], row["high"] = interval(values)
        report.rows.append(row)


def mean_at(report: Report, data: str, system: str, category: str = "all") -> float | None:
    """Look up R@10 among the rows."""
    for row in report.rows:
        if (row["data"], row["system"], row["category"]) == (data, system, category):
            return float(row["R@10"])
    return None


def main() -> int:
    """Run the comparison."""
    options = parser(__doc__, data=True)
    options.add_argument("--systems", default=",".join(SYSTEMS), help="comma-separated")
    arguments = options.parse_args()
    report = Report("recall_quality", arguments)
    embedder = RememberingEmbedder()
    noted, still = Noted(embedder), Noted(embedder, {"memos.plaintext.notes.plan.evolve": lambda *_: []})
    systems = {
        "memos": memos(embedder),
        **{name: noted.asked(max(DEPTHS), **asking) for name, asking in NOTED.items()},
        "no evolution": still.asked(max(DEPTHS)),
        "bm25": bm25,
        "dense": dense(embedder),
        "mem0": mem0(embedder, report),
    }
    folder = Path(arguments.data or "no-data")
    sets = {"locomo": locomo(folder), "beam": beam(folder)}
    if arguments.quick:
        sets = {"locomo": sets["locomo"][:2], "beam": sets["beam"][:2]}
    for data, conversations in sets.items():
        if not conversations:
            report.notes.append(f"{data}: no data; give --data DIR or set MEMOS_EVAL_DATA")
            continue
        for name in arguments.systems.split(","):
            compare(report, data, name, systems[name], conversations)
    noted.close()
    still.close()
    table(report.rows)
    _figures(report)
    report.finish()
    return 0


def compare(report: Report, data: str, name: str, system: System, conversations: Sequence[Conversation]) -> None:
    """Run one system on one data set; a peer that cannot be installed or run is noted, not fatal."""
    try:
        ranks = system(conversations)
    except (subprocess.CalledProcessError, OSError) as error:
        report.notes.append(f"{name} on {data}: {error}")
        return
    score(report, data, name, conversations, ranks)
    if data == "beam":
        keys = {"notes": "", "memos": "_without_notes", "newer first": "_always"}
        if name in keys:
            report.figures[f"beam_newest_first{keys[name]}"] = newest_first(conversations, ranks)
    print(f"{data}: {name} done", flush=True)


def _figures(report: Report) -> None:
    figures = report.figures
    figures.setdefault("beam_newest_first", None)
    figures["locomo_r10"] = mean_at(report, "locomo", "memos")
    figures["locomo_r10_multihop"] = mean_at(report, "locomo", "memos", "multi-hop")
    figures["locomo_r10_notes"] = mean_at(report, "locomo", "notes")
    figures["locomo_r10_multihop_notes"] = mean_at(report, "locomo", "notes", "multi-hop")
    for name in ("no links", "no evolution", "pagerank"):
        figures[f"locomo_r10_{name.replace(' ', '_')}"] = mean_at(report, "locomo", name)
    for name, key in (("memos", "_without_notes"), ("notes", ""), ("newer first", "_newer_always_first")):
        figures[f"beam_r10{key}"] = mean_at(report, "beam", name)
    for name in ("bm25", "dense", "mem0"):
        figures[f"locomo_r10_{name}"] = mean_at(report, "locomo", name)


if __name__ == "__main__":
    sys.exit(main())
