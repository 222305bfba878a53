"""The service against what it stands on: real server processes on loopback, one store, one load at a time.

overhead    p50 of recall over HTTP less that of the embedded call, on two copies of one store, turn by turn
get         GET of a memory, requests per second, against a bare FastAPI + SQLAlchemy (async) route on an equal table
soak        16 clients that store and recall: answers above 499, growth of resident memory after warm-up, p99
isolation   one tenant's attempts on another's memories over every operation of the OpenAPI document
document    schemathesis on the OpenAPI document: server errors and answers that it does not describe
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from attempts import Attempts, Victim
from harness import Report, parser, peer_python, table
from tiny import save_tiny_model

from memos_sdk import Memory

BARE = ("fastapi==0.165.0", "sqlalchemy[asyncio]==2.1.9", "aiosqlite", "uvicorn[standard]==0.54.0")
SCHEMATHESIS = ("schemathesis==4.32.5",)
MEMOS = Path(sys.executable).with_name("memos")
CLIENTS = 16
#: Questions in a row of one arm.
BLOCK = 10
#: Of one thief.
ATTEMPTS = 2_000


def main() -> int:
    """Measure everything."""
    options = parser(__doc__ or "")
    options.add_argument("--part", action="append", choices=PARTS, help="measure this alone again (may be repeated)")
    arguments = options.parse_args()
    report, parts = Report("service", arguments), arguments.part or PARTS
    if arguments.part:
        report.resume()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "store"
        _fill(home, 300 if arguments.quick else 2_000)
        for part in parts:
            PARTS[part](report, home, arguments.quick)
            report.save()
    table(report.rows)
    report.finish()
    return 0


def sentences(count: int, seed: int = 5) -> list[str]:
    """Return made-up statements."""
    dice = random.Random(seed)
    names = "Ann Bo Cy Dee Eli Fay Gus Hal Ida Jo".split()
    acts = "bought sold painted lost found repaired borrowed planted photographed baked".split()
    things = "a bicycle,a canoe,the red door,two clocks,a loaf of bread,a map,some roses,a violin".split(",")
    towns = "Oslo Rome Lima Kyoto Porto Turku Graz Leeds".split()
    return [
        f"{dice.choice(names)} {dice.choice(acts)} {dice.choice(things)} in {dice.choice(towns)} on day {number}."
        for number in range(count)
    ]


def _fill(home: Path, count: int) -> None:
    with Memory(path=home) as memory:
        memory.store_many([{"text": text, "infer": False} for text in sentences(count)])


# ---------------------------------------------------------------- processes


@contextmanager
def _served(home: Path, *options: str, model: Path | None = None) -> Iterator[str]:
    """Run ``memos serve`` on a store; yield its address."""
    environment = {**os.environ, **({"MEMOS_NOTES": "off"} if "--notes-off" in options else {})}
    environment["MEMOS_API_LOG_LEVEL"] = "error"
    if model is not None:
        environment["MEMOS_MODEL"] = str(model)
    with _process([str(MEMOS), "serve", "--home", str(home), "--port", "{port}"], environment) as (url, _):
        yield url


@contextmanager
def _process(command: list[str], environment: dict[str, str]) -> Iterator[tuple[str, psutil.Process]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([part.format(port=port) for part in command], env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start")
            time.sleep(0.1)
        yield url, psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.HTTPError:
        return False


# ---------------------------------------------------------------- overhead of a recall


def _overhead(report: Report, home: Path, quick: bool) -> None:
    """Ask both stores the same, ten questions in a row, each arm first as often as the others.

    What HTTP adds is the median over the questions, since what embedding one takes varies by more than that.
    """
    copy = home.with_name("copy")
    shutil.copytree(home, copy)
    took: dict[str, list[float]] = {"embedded": [], "POST /v1/recall": [], "our client": [], "GET /healthz": []}
    with _served(home) as url, Memory(path=copy) as embedded, Memory(url) as client, _connected(url) as ask:
        arms = {
            "embedded": lambda question: embedded.recall(question, top_k=10),
            "POST /v1/recall": lambda question: ask("POST", "/v1/recall", {"query": question, "top_k": 10}),
            "our client": lambda question: client.recall(question, top_k=10),
            "GET /healthz": lambda _: ask("GET", "/healthz", None),
        }
        names, questions = list(arms), sentences(60 if quick else 600, seed=8)
        for first in range(0, len(questions), BLOCK):
            turn = first // BLOCK % len(names)
            for name in names[turn:] + names[:turn]:
                arms[name]("Who wakes the threads of this arm?")
                for question in questions[first : first + BLOCK]:
                    start = time.perf_counter()
                    arms[name](question)
                    took[name].append((time.perf_counter() - start) * 1e3)
    middle = {name: statistics.median(values) for name, values in took.items()}
    _replace(
        report,
        "recall: ",
        [{"arm": f"recall: {name}", "value": value, "unit": "ms p50"} for name, value in middle.items()],
    )
    for key, name in (("recall_http_overhead_ms", "POST /v1/recall"), ("recall_client_overhead_ms", "our client")):
        pairs = zip(took[name], took["embedded"], strict=True)
        report.figures[key] = statistics.median(over - under for over, under in pairs)


def _replace(report: Report, start: str, rows: list[dict[str, Any]]) -> None:
    """Put rows in the place of those of an earlier run."""
    report.rows = [row for row in report.rows if not row["arm"].startswith(start)] + rows


@contextmanager
def _connected(url: str) -> Iterator[Callable[[str, str, Any], bytes]]:
    """One connection that stays, and a client that adds as little as there is."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)

    def ask(method: str, path: str, body: Any) -> bytes:
        headers = {"Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(content.decode())
        return content

    yield ask
    connection.close()


# ---------------------------------------------------------------- a plain GET

BARE_APP = """
import json, sys
from fastapi import FastAPI, HTTPException
from sqlalchemy import Column, Integer, MetaData, String, Table, Text, select
from sqlalchemy.ext.asyncio import create_async_engine
engine = create_async_engine("sqlite+aiosqlite:///" + sys.argv[1])
notes = Table("notes", MetaData(), Column("id", String(36), primary_key=True), Column("body", Text))
app = FastAPI()
@app.get("/healthz")
async def healthz():
    return {"status": "ok"}
@app.get("/v1/memories/{cube_id}")
async def get(cube_id: str):
    async with engine.connect() as connection:
        row = (await connection.execute(select(notes).where(notes.c.id == cube_id))).first()
    if row is None:
        raise HTTPException(404)
    return json.loads(row.body)
if __name__ == "__main__":
    import uvicorn
    uvicorn.run(app, port=int(sys.argv[2]), log_level="error", access_log=False)
"""


def _get(report: Report, home: Path, quick: bool) -> None:
    """Compare requests per second, turn by turn, of 16 connections that wait for nothing but the answer."""
    with _served(home) as url:
        rates = _rates(url, home.parent, *((3, 3) if quick else (10, 4)))
    middle = {name: statistics.median(values) for name, values in rates.items()}
    rows = [{"arm": f"get, {name}", "value": value, "unit": "requests/s"} for name, value in middle.items()]
    _replace(report, "get, ", rows)
    pairs = zip(rates["memos"], rates["bare"], strict=True)
    report.figures["get_vs_bare_fastapi"] = statistics.median(ours / bare for ours, bare in pairs)


def _rates(url: str, folder: Path, rounds: int, seconds: int) -> dict[str, list[float]]:
    import sqlite3

    memories = httpx.get(f"{url}/v1/memories?limit=500").json()["memories"]
    database = folder / "bare.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE notes (id TEXT PRIMARY KEY, body TEXT)")
        connection.executemany("INSERT INTO notes VALUES (?, ?)", [(one["id"], json.dumps(one)) for one in memories])
    script = folder / "bare.py"
    script.write_text(BARE_APP)
    paths = [f"/v1/memories/{one['id']}" for one in memories]
    rates: dict[str, list[float]] = {"memos": [], "bare": []}
    with _process([peer_python("bare", BARE), str(script), str(database), "{port}"], dict(os.environ)) as (bare, _):
        for _ in range(rounds):
            for name, address in (("memos", url), ("bare", bare)):
                rates[name].append(asyncio.run(_rate(address, paths, seconds)))
    return rates


async def _rate(url: str, paths: list[str], seconds: float) -> float:
    host, port = url.removeprefix("http://").split(":")
    end, counts = time.monotonic() + seconds, [0] * CLIENTS

    async def ask(client: int) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        while time.monotonic() < end:
            path = paths[(client * 31 + counts[client]) % len(paths)]
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(head.decode())
            length = re.search(rb"content-length: (\d+)", head, re.I)
            assert length is not None
            await reader.readexactly(int(length[1]))
            counts[client] += 1
        writer.close()

    await asyncio.gather(*map(ask, range(CLIENTS)))
    return sum(counts) / seconds


# ---------------------------------------------------------------- sixteen clients for minutes


def _soak(report: Report, home: Path, quick: bool) -> None:
    with _served(home, "--notes-off") as url:
        _loaded(report, url, 20 if quick else 300)


def _loaded(report: Report, url: str, seconds: int) -> None:
    process = next(one for one in psutil.process_iter() if _listens(one, int(url.rsplit(":", 1)[1])))
    end, warm = time.monotonic() + seconds, time.monotonic() + seconds / 5
    failed: list[int] = []
    took: list[float] = []
    resident: list[int] = []

    def work(client: int) -> None:
        dice, texts = random.Random(client), sentences(1_000, seed=client)
        with httpx.Client(base_url=url, timeout=60) as http:
            while time.monotonic() < end:
                start, user = time.perf_counter(), f"u{dice.randrange(8)}"
                if dice.random() < 0.3:
                    answer = http.post("/v1/memories", json={"text": dice.choice(texts), "user_id": user})
                else:
                    answer = http.post("/v1/recall", json={"query": dice.choice(texts), "user_id": user, "top_k": 5})
                took.append(time.perf_counter() - start)
                if answer.status_code >= 500:
                    failed.append(answer.status_code)

    threads = [threading.Thread(target=work, args=(client,)) for client in range(CLIENTS)]
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        if time.monotonic() >= warm:
            resident.append(process.memory_info().rss)
        time.sleep(0.5)
    for thread in threads:
        thread.join()
    tenth = max(1, len(resident) // 10)
    growth = statistics.median(resident[-tenth:]) / statistics.median(resident[:tenth]) - 1
    report.figures["soak_5xx"] = float(len(failed))
    report.figures["soak_rss_growth"] = growth
    report.figures["soak_p99_ms"] = sorted(took)[int(len(took) * 0.99)] * 1e3
    report.figures["soak_requests_per_s"] = len(took) / seconds


def _listens(process: psutil.Process, port: int) -> bool:
    try:
        return any(
            one.laddr and one.laddr.port == port for one in process.net_connections("tcp") if one.status == "LISTEN"
        )
    except psutil.Error:
        return False


# ---------------------------------------------------------------- strangers, and the document


def _key(home: Path, tenant: str, scopes: str = "read,write,admin") -> dict[str, str]:
    command = [str(MEMOS), "keys", "create", "--tenant", tenant, "--scopes", scopes, "--home", str(home), "--json"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {"Authorization": f"Bearer {json.loads(told)['key']}"}


def _isolation(report: Report, home: Path, quick: bool) -> None:
    with _served(home) as url:
        _stolen(report, url, home, 1 if quick else 50)


def _stolen(report: Report, url: str, home: Path, thieves: int) -> None:
    """Let one thief after another try: what the last one stored itself would only slow the next one down."""
    attempted = leaks = broken = 0
    chance, document = random.Random(1), httpx.get(f"{url}/openapi.json").json()
    with httpx.Client(base_url=url, headers=_key(home, "victim"), timeout=60) as own:
        victim = Victim.settle(own)
        before, attempts = victim.state(), Attempts(document, victim, chance)
        for number in range(thieves):
            with httpx.Client(base_url=url, headers=_key(home, f"thief{number}"), timeout=60) as other:
                for attempt in attempts.take(ATTEMPTS):
                    answer = other.request(attempt.method, attempt.url, **attempt.request)
                    attempted += 1
                    leaks += victim.canary in answer.text
                    broken += answer.status_code >= 500 and answer.status_code != 501
        leaks += victim.state() != before
    report.figures["isolation_leaks"] = float(leaks)
    report.figures["isolation_attempts"] = float(attempted)
    report.figures["isolation_5xx"] = float(broken)


def _document(report: Report, home: Path, quick: bool) -> None:
    tiny = home.with_name("tiny")
    save_tiny_model(tiny)
    with _served(home, model=tiny) as url:
        _explored(report, url, home, 20 if quick else 100)


def _explored(report: Report, url: str, home: Path, examples: int) -> None:
    """Let schemathesis read the document and try every operation, those of keys apart: it revokes its own.

    Three answer 501 until the scheduler and composition are there. Chats are of a tiny model: they are many.
    """
    left_out = "^/v1/(plan|moves|compose)$"
    headers = _key(home, "fuzz", "read,write")
    httpx.post(f"{url}/v1/recall", json={"query": "load the embedder"}, headers=headers, timeout=120)
    found = [
        _tried(url, headers, examples, "--exclude-path-regex", f"{left_out}|^/v1/keys"),
        _tried(url, _key(home, "fuzz"), examples, "--include-path-regex", "^/v1/keys"),
    ]
    report.figures["schemathesis_failures"] = float(sum(failures for failures, _ in found))
    report.figures["schemathesis_cases"] = float(sum(cases for _, cases in found))


def _tried(url: str, headers: dict[str, str], examples: int, *chosen: str) -> tuple[int, int]:
    """Return failures and cases of one run, what kept it from running among the failures."""
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    with tempfile.TemporaryDirectory() as folder:
        command = [
            str(Path(peer_python("schemathesis", SCHEMATHESIS)).with_name("schemathesis")),
            *("run", f"{url}/openapi.json", "--header", f"Authorization: {headers['Authorization']}"),
            *("--max-examples", str(examples), "--checks", checks, "--request-timeout", "120"),
            *("--seed", "1", "--no-color", *chosen),
        ]
        run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    print(run.stdout[-4_000:])
    cases = re.search(r"(\d+) generated", run.stdout)
    wrong = [int(count) for count in re.findall(r"(\d+) (?:unique failures?|errored)", run.stdout)]
    if cases is None or (run.returncode != 0 and not wrong):
        raise RuntimeError(run.stdout + run.stderr)
    return sum(wrong), int(cases[1])


PARTS: dict[str, Callable[[Report, Path, bool], None]] = {
    "overhead": _overhead,
    "get": _get,
    "soak": _soak,
    "document": _document,
    "isolation": _isolation,
}


if __name__ == "__main__":
    sys.exit(main())
