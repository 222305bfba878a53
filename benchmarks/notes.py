"""What notes cost and whether they are right: rules, a stub for a model, and the PyPI package a-mem beside them.

  offline   milliseconds per note by rules, at 1,000 and 10,000 notes: construct, link and evolve, embedding excluded
  model     calls per note to an OpenAI-compatible endpoint in this process, stored singly and together
  dedup     15 rewordings of 5 facts: what is left
  a-mem     the same texts, vectors and stub answers in an environment of its own: cost, links, evolution, and recall on
            LoCoMo, where both use the keywords of the stub

Texts for the costs are made up of words, so that no data is needed; recall needs --data.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from embedders import RememberingEmbedder
from harness import Report, parser, peer_python, table
from numpy.typing import NDArray
from recall_quality import Conversation, locomo, shares

from memos.config import Settings
from memos.cube import Scope
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.store.jobs import FINAL, Job

AMEM = ("a-mem==0.2.6", "chromadb==1.5.9", "sentence-transformers==6.2.0", "numpy==2.4.6")
SCOPE = Scope()
LAST = 1_000
TOP = 10
#: Not those of the tests: three ways to tell each of five facts.
FACTS = (
    (
        "Priya teaches chemistry at Weston High School.",
        "Priya works as a chemistry teacher at Weston High School.",
        "At Weston High School, Priya teaches chemistry.",
    ),
    (
        "Our dog Bruno is afraid of thunder.",
        "Bruno, our dog, is scared of thunder.",
        "Thunder frightens our dog Bruno.",
    ),
    (
        "The rent is due on the 3rd of every month.",
        "Every month, rent is due on the 3rd.",
        "Rent must be paid by the 3rd of every month.",
    ),
    (
        "Luca speaks Italian and German fluently.",
        "Luca is fluent in Italian and German.",
        "Italian and German are languages Luca speaks fluently.",
    ),
    (
        "My grandmother grew up in Dublin.",
        "Dublin is where my grandmother grew up.",
        "My grandmother was raised in Dublin.",
    ),
)
PROBES = (
    "The harbour master of Tolvik keeps bees.",
    "Coffee from Peru tastes of plums.",
    "The night train to Lund leaves at nine.",
    "The harbour master of Tolvik sells honey from his bees.",
)
NEAREST = 0
RULES = "memos, rules"


def main() -> int:
    """Measure everything."""
    options = parser(__doc__ or "", data=True)
    options.add_argument("--offline", action="store_true", help="measure the rules alone again")
    arguments = options.parse_args()
    report = Report("notes", arguments)
    sizes = [200, 1_000] if arguments.quick else [1_000, 10_000]
    texts = made_up(max(sizes))
    if arguments.offline:
        report.resume()
        report.rows = [row for row in report.rows if row["arm"] != RULES]
    embedder = RememberingEmbedder()
    _offline(report, texts, sizes)
    if arguments.offline:
        table(report.rows)
        report.finish()
        return 0
    _model(report, texts)
    _dedup(report, embedder)
    conversations = locomo(Path(arguments.data or "no-data"))[: 1 if arguments.quick else None]
    if not conversations:
        report.notes.append("recall beside a-mem: no data; give --data DIR or set MEMOS_EVAL_DATA")
    _amem(report, texts, sizes, conversations, embedder)
    table(report.rows)
    report.finish()
    return 0


# ---------------------------------------------------------------- rules


class Words:
    """Vectors of made-up texts: a sum of one vector per word, so that common words are similarity; and their time."""

    identity = "benchmark:words"
    dimension = 384

    def __init__(self) -> None:
        self.seconds = 0.0
        self._known: dict[str, NDArray[np.float32]] = {}

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 ``[n, 384]`` unit vectors."""
        start = time.perf_counter()
        rows = np.stack([self._vector(text) for text in texts])
        self.seconds += time.perf_counter() - start
        return rows

    def count_tokens(self, text: str) -> int:
        """Count words."""
        return len(text.split())

    def _vector(self, text: str) -> NDArray[np.float32]:
        total = np.sum([self._word(word) for word in re.findall(r"\w+", text.lower())], axis=0)
        return np.asarray(total / np.linalg.norm(total), np.float32)

    def _word(self, word: str) -> NDArray[np.float32]:
        if word not in self._known:
            seed = int.from_bytes(word.encode()[:8].ljust(8, b"\0"), "big")
            self._known[word] = np.random.default_rng(seed).normal(size=self.dimension).astype(np.float32)
        return self._known[word]


def made_up(count: int) -> list[str]:
    """Return texts like those of people: who did what, where, when and why."""
    dice = random.Random(6)
    people = [
        a + b for a in ("An", "Be", "Ca", "Da", "El", "Fa", "Gi", "Ha", "Io", "Ju") for b in ("na", "rt", "lo", "mi")
    ]
    towns = [a + b for a in ("Nor", "Sol", "Tor", "Vin", "Wes") for b in ("by", "dal", "holm", "mouth", "wick")]
    acts = "repaired sold painted borrowed photographed baked translated recorded planted measured".split()
    things = (
        "an old bicycle;a canoe;two clocks;a wooden gate;a loaf of rye bread;a short story;a violin;the garden shed;"
        "a telescope;some wild roses;a weather station;a map of the coast"
    ).split(";")
    whys = (
        "because the neighbours asked for it;before the winter storm;after the long meeting about the budget;"
        "although nobody believed it would work;while the children were at school;to raise money for the library"
    ).split(";")
    found: dict[str, None] = {}
    while len(found) < count:
        month = dice.choice("March April June July September October".split())
        day = f"on {dice.randint(1, 28)} {month} {dice.randint(2015, 2025)}"
        text = (
            f"{dice.choice(people)} {dice.choice(acts)} {dice.choice(things)} in {dice.choice(towns)} {day} "
            f"{dice.choice(whys)}, with {dice.choice(people)} and {dice.randint(2, 99)} helpers."
        )
        found[text] = None
    return list(found)


def _offline(report: Report, texts: Sequence[str], sizes: Sequence[int]) -> None:
    for size in sizes:
        embedder = Words()
        with _store(embedder, notes="offline") as engine:
            engine.store_many(SCOPE, [{"text": text} for text in texts[: size - min(LAST, size // 2)]])
            _written(engine)
            rest = [{"text": text} for text in texts[size - min(LAST, size // 2) : size]]
            engine.store_many(SCOPE, [{**item, "infer": False} for item in rest[:1]])  # whatever the first write opens
            embedder.seconds, start = 0.0, time.perf_counter()
            engine.store_many(SCOPE, rest[1:])
            stored, embedded = time.perf_counter() - start, embedder.seconds
            _written(engine)
            whole = time.perf_counter() - start
            counts = engine.stats(SCOPE)
        each = 1e3 / (len(rest) - 1)
        row = {
            "arm": RULES,
            "size": size,
            "ms_per_note": (whole - stored - (embedder.seconds - embedded)) * each,
            "calls_per_note": 0.0,
            "links": counts.links,
            "versions": counts.versions,
        }
        report.rows.append({**row, "embedding_ms_excluded": (embedder.seconds - embedded) * each})
        print(row, flush=True)
    small, large = (row["ms_per_note"] for row in report.rows if row["arm"] == RULES)
    report.figures["offline_ms_per_note_10k"] = large if sizes[-1] == 10_000 else None
    report.figures["offline_flatness"] = small / large


def _dedup(report: Report, embedder: Embedder) -> None:
    with _store(embedder, notes="offline") as engine:
        for way in range(3):
            for fact in FACTS:
                engine.store_many(SCOPE, [{"text": fact[way]}])
        _written(engine)
        kept = engine.list(SCOPE)
        report.figures["dedup_kept"] = len(kept)
        report.figures["dedup_sources_kept"] = sum(1 + len(cube.provenance.parents) for cube in kept)


# ---------------------------------------------------------------- a stub for a model


def _model(report: Report, texts: Sequence[str]) -> None:
    for arm, together in (("memos, model, one by one", False), ("memos, model, stored together", True)):
        with _endpoint() as (url, calls), _store(Words(), notes="openai:stub", llm_base_url=url) as engine:
            chosen = texts[:100]
            start = time.perf_counter()
            if together:
                engine.store_many(SCOPE, [{"text": text} for text in chosen])
            else:
                for text in chosen:
                    engine.store_many(SCOPE, [{"text": text}])
                    _written(engine)
            _written(engine)
            taken = time.perf_counter() - start
        row = {"arm": arm, "size": len(chosen), "ms_per_note": taken * 1e3 / len(chosen)}
        report.rows.append({**row, "calls_per_note": len(calls) / len(chosen)})
    report.figures["llm_calls_per_note"] = report.rows[-2]["calls_per_note"]
    report.figures["llm_calls_per_note_together"] = report.rows[-1]["calls_per_note"]


def keywords_of(text: str) -> list[str]:
    """Return the longest words of a text: what the stub answers, here and for a-mem."""
    words = re.findall(r"[A-Za-z]{4,}", text)
    return sorted(dict.fromkeys(words), key=lambda word: (-len(word), word))[:5]


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    shown = json.loads(request["messages"][1]["content"])
    notes = [
        {
            "ref": one["ref"],
            "title": "A note",
            "keywords": keywords_of(one["text"]),
            "tags": ["note"],
            "context": "A note.",
            "entities": [],
            "importance": 0.5,
            "links": [{"ref": ref, "type": "semantic", "strength": 0.9} for ref in one["earlier"][:1]],
            "rewrites": [],
        }
        for one in shown["new"]
    ]
    message = {"role": "assistant", "content": json.dumps({"notes": notes})}
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}


@contextmanager
def _endpoint() -> Iterator[tuple[str, list[str]]]:
    """An OpenAI-compatible endpoint in this process; yields its URL and the list of calls."""
    calls: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            calls.append(request["model"])
            body = json.dumps(_answer(request)).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1", calls
    server.shutdown()
    server.server_close()
    thread.join()


# ---------------------------------------------------------------- a-mem


def _amem(
    report: Report,
    texts: Sequence[str],
    sizes: Sequence[int],
    conversations: Sequence[Conversation],
    embedder: RememberingEmbedder,
) -> None:
    try:
        python = peer_python("amem", AMEM)
        with tempfile.TemporaryDirectory() as work:
            request = _request(texts, sizes, conversations, embedder, Path(work))
            (Path(work) / "request.json").write_text(json.dumps(request))
            script = Path(__file__).parent / "peers" / "amem_notes.py"
            files = [str(Path(work) / name) for name in ("request.json", "reply.json")]
            subprocess.run([python, str(script), *files], check=True, stdout=subprocess.DEVNULL)
            reply = json.loads((Path(work) / "reply.json").read_text())
    except (subprocess.CalledProcessError, OSError) as error:
        report.missing("amem_calls_per_note", f"a-mem could not be run: {error}")
        return
    for write in reply["writes"]:
        report.rows.append({"arm": "a-mem", **write})
    report.figures["amem_calls_per_note"] = reply["writes"][-1]["calls_per_note"]
    report.figures["amem_ms_per_note"] = reply["writes"][-1]["ms_per_note"]
    for name, good in {**{f"a-mem: {n}": v for n, v in reply["checks"].items()}, **_checks(embedder)}.items():
        report.rows.append({"arm": name, "holds": good})
    if conversations:
        found = [reply["ranks"][conversation.name] for conversation in conversations]
        report.figures["amem_r10"] = float(np.mean([share for _, share in shares(conversations, found, TOP)]))
        report.figures["stub_r10"] = _recall(conversations, embedder)


def _checks(embedder: Embedder) -> dict[str, bool]:
    """Ask of this project what is asked of a-mem."""
    with _endpoint() as (url, _), _store(embedder, notes="openai:stub", llm_base_url=url) as engine:
        ids = []
        for text in PROBES:
            ids.append(engine.store_many(SCOPE, [{"text": text}])[0].id)
            _written(engine)
        links, back = engine.links("default", ids[-1]), engine.links("default", ids[NEAREST])
        found = {
            "link_resolves": all(engine.get("default", link.target_id) for link in links),
            "link_goes_to_the_nearest": [link.target_id for link in links] == [ids[NEAREST]],
            "link_goes_both_ways": ids[-1] in {link.target_id for link in back},
        }
        engine.forget("default", ids[NEAREST])
        found["no_link_dangles_after_delete"] = not engine.links("default", ids[-1])
        number = engine.store_many(SCOPE, [{"text": "2024"}])[0].id
        found["text_comes_back_as_text"] = engine.get("default", number).text == "2024"
    return {f"memos: {name}": good for name, good in found.items()}


def _recall(conversations: Sequence[Conversation], embedder: Embedder) -> float:
    """Return R@10 with the notes of the stub."""
    found = []
    with _endpoint() as (url, _), _store(embedder, notes="openai:stub", llm_base_url=url) as engine:
        for conversation in conversations:
            scope = Scope(user_id=conversation.name)
            cubes = engine.store_many(scope, [{**turn, "infer": True} for turn in conversation.turns])
            _written(engine, scope)
            place = {cube.id: index for index, cube in enumerate(cubes)}
            found.append(
                [
                    [place[hit.id] for hit in engine.recall(scope, question.text, top_k=TOP).hits]
                    for question in conversation.questions
                ]
            )
    return float(np.mean([share for _, share in shares(conversations, found, TOP)]))


def _request(
    texts: Sequence[str],
    sizes: Sequence[int],
    conversations: Sequence[Conversation],
    embedder: RememberingEmbedder,
    work: Path,
) -> dict[str, Any]:
    known = [*texts, *PROBES, "2024"]
    vectors = np.concatenate([Words().embed(texts), embedder.embed([*PROBES, "2024"])])
    np.save(work / "texts.npy", vectors)
    asked = {}
    for number, conversation in enumerate(conversations):
        questions = [question.text for question in conversation.questions]
        for kind, some in (("texts", conversation.texts), ("questions", questions)):
            np.save(work / f"{number}-{kind}.npy", embedder.embed(some))
        asked[conversation.name] = {
            "texts": conversation.texts,
            "questions": questions,
            "texts_npy": str(work / f"{number}-texts.npy"),
            "questions_npy": str(work / f"{number}-questions.npy"),
        }
    return {
        "sizes": list(sizes),
        "texts": known,
        "vectors_npy": str(work / "texts.npy"),
        "probes": list(PROBES),
        "nearest": NEAREST,
        "conversations": asked,
        "top_k": TOP,
        "workdir": str(work),
    }


# ---------------------------------------------------------------- inside


@contextmanager
def _store(embedder: Embedder, **settings: Any) -> Iterator[MemoryOS]:
    with (
        tempfile.TemporaryDirectory() as home,
        MemoryOS(Settings(home=Path(home), **settings), embedder) as engine,
    ):
        yield engine


def _written(engine: MemoryOS, scope: Scope = SCOPE) -> Job:
    """Wait until no memory waits for its note."""
    job = engine.refine(scope)
    while job.state not in FINAL:
        time.sleep(0.1)
        job = engine.job(scope.tenant, job.id)
    return job


if __name__ == "__main__":
    sys.exit(main())
