"""What every test shares: a quiet environment, and data folders that are never the user's own."""

from __future__ import annotations

import copy
import hashlib
import math
import os
import re
import socket
import threading
import time
import uuid
import zlib
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import hypothesis
import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from memos.embedding.base import Embedder
    from memos.engine import MemoryOS
    from memos.runtime.host import ModelHost
    from memos_sdk import Memory

# Set before any test module is imported, and inherited by the processes that tests start.
os.environ.update(
    {
        "ANONYMIZED_TELEMETRY": "False",
        "HF_HUB_OFFLINE": "1",
        "MEMOS_COMPOSE": "off",  # for stores that several tests share; see no_user_data
        "MEMOS_NOTES": "off",  # likewise
        "OMP_NUM_THREADS": "1",  # xdist already uses every core
        "TOKENIZERS_PARALLELISM": "false",
    }
)

hypothesis.settings.register_profile("default", deadline=None, max_examples=30)
hypothesis.settings.register_profile("soak", deadline=None, max_examples=2_000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave to ``make soak`` what is marked ``soak``, and all but one in ``n`` of what is marked ``sampled(n)``.

    Eight parameter sets of a test stay at least. Which ones is drawn by their names: the same on every machine, mixed
    over all parameters.
    """
    if SOAK:
        return
    left: set[pytest.Item] = {item for item in items if item.get_closest_marker("soak")}
    many: defaultdict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sampled"):
            many[item.nodeid.split("[")[0]].append(item)
    for alike in many.values():
        (one_in,) = alike[0].get_closest_marker("sampled").args  # type: ignore[union-attr]  # it was just seen
        alike.sort(key=lambda item: zlib.crc32(item.nodeid.encode()))
        left.update(alike[max(8, math.ceil(len(alike) / one_in)) :])
    config.hook.pytest_deselected(items=[item for item in items if item in left])
    items[:] = [item for item in items if item not in left]


@pytest.fixture(scope="session")
def repository(pytestconfig: pytest.Config) -> Path:
    """The root of this checkout."""
    return pytestconfig.rootpath


@pytest.fixture(autouse=True)
def no_user_data(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the user's settings out, and move the default data folder to a temporary place.

    Notes are written where a test is about them (tests/memos/plaintext/notes); elsewhere memories stay as stored.
    """
    for name in [name for name in os.environ if name.startswith("MEMOS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MEMOS_HOME", str(tmp_path_factory.getbasetemp() / "memos-home"))
    monkeypatch.setenv("MEMOS_NOTES", "off")
    monkeypatch.setenv("MEMOS_COMPOSE", "off")  # its check of a model takes half a minute


# --------------------------------------------------------------------------------------------------
# An embedder that needs no model, and stores on top of it


class HashEmbedder:
    """A text's vector is the sum of one pseudo-random vector per word: texts with common words are similar."""

    def __init__(self, dimension: int = 64) -> None:
        self.dimension = dimension
        self.identity = f"test:hash-{dimension}"

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 ``[len(texts), dimension]`` unit vectors."""
        rows = [self._vector(text) for text in texts]
        return np.array(rows, np.float32).reshape(len(rows), self.dimension)

    def count_tokens(self, text: str) -> int:
        """Count words."""
        return len(text.split())

    def _vector(self, text: str) -> NDArray[np.float32]:
        found = re.findall(r"\w+", text.lower()) or [text]
        total = np.sum([word_vector(word, self.dimension) for word in found], axis=0)
        unit: NDArray[np.float32] = (total / np.linalg.norm(total)).astype(np.float32)
        return unit


@cache
def word_vector(word: str, dimension: int) -> NDArray[np.float64]:
    """Return the same unit vector for the same word, in every process."""
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
    vector = np.random.default_rng(seed).normal(size=dimension)
    return vector / np.linalg.norm(vector)


@pytest.fixture
def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    """A deterministic embedder of 64 elements, ``test:hash-64``."""
    return HashEmbedder()


@pytest.fixture(scope="session")
def other_embedder() -> Embedder:
    """Another one, of 32 elements: ``test:hash-32``."""
    return HashEmbedder(32)


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    """Where this test's embedded store lives."""
    return tmp_path / "data"


@pytest.fixture
def memory(data_folder: Path, embedder: Embedder) -> Iterator[Memory]:
    """An empty embedded store, as an agent sees it."""
    from memos_sdk import Memory

    with Memory(path=data_folder, embedder=embedder) as opened:
        yield opened


@pytest.fixture
def engine(data_folder: Path, embedder: Embedder) -> Iterator[MemoryOS]:
    """The engine on an empty store, for what the SDK does not offer."""
    from memos.config import Settings
    from memos.engine import MemoryOS

    with MemoryOS(Settings(home=data_folder), embedder) as opened:
        yield opened


@pytest.fixture(scope="session")
def models() -> Iterator[ModelHost]:
    """The real bundled language model, loaded once for all engines of this test process."""
    from memos.config import Settings
    from memos.runtime.host import ModelHost

    host = ModelHost(Settings())
    yield host
    host.close()


@pytest.fixture(scope="session")
def shallow_model(models: ModelHost, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first layers of the bundled model alone, for tests of what is done around a model: their folder."""
    return cut_model(models, tmp_path_factory.mktemp("shallow"))


@pytest.fixture(scope="session")
def shallow_models(models: ModelHost, request: pytest.FixtureRequest) -> Iterator[ModelHost]:
    """A host of the shallow model; of the whole one in soak."""
    from memos.config import Settings
    from memos.runtime.host import ModelHost

    if SOAK:
        yield models
        return
    host = ModelHost(Settings(model=str(request.getfixturevalue("shallow_model"))))
    yield host
    host.close()


def cut_model(models: ModelHost, folder: Path, layers: int = 4) -> Path:
    """Save a model of a model's first layers and its tokenizer; return the folder."""
    loaded = models.serving().loaded
    config = copy.deepcopy(loaded.model.config)
    config.num_hidden_layers, config.layer_types = layers, None
    cut = type(loaded.model)(config)  # float32, as the model is loaded in tests
    cut.load_state_dict({name: loaded.model.state_dict()[name] for name in cut.state_dict()})
    cut.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder


# --------------------------------------------------------------------------------------------------
# The service, on loopback


@dataclass(frozen=True, slots=True)
class RunningService:
    """A service in a thread of this process. ``key`` makes an API key; each tenant is a world of its own."""

    url: str
    app: Any

    @property
    def service(self) -> Any:
        """What the routes share."""
        return self.app.state.service

    def key(self, tenant: str | None = None, scopes: Sequence[str] = ("read", "write", "admin")) -> str:
        """Return the text of a new key, of a new tenant if none is named."""
        made = self.service.access.create(tenant or f"tenant-{uuid.uuid4()}", list(scopes))
        return str(made.key)


@contextmanager
def serving(engine: Callable[[], MemoryOS], **settings: Any) -> Iterator[RunningService]:
    """Run the service with an engine until the block ends."""
    import uvicorn

    from memos_api.app import create_app
    from memos_api.settings import ServiceSettings

    app = create_app(ServiceSettings(log_level="error", **settings), engine)
    config = uvicorn.Config(app, port=0, log_config=None, access_log=False, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="test-service", daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the service ended while it started; see the log"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield RunningService(f"http://127.0.0.1:{port}", app)
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def serve() -> Callable[..., Any]:
    """Run a service of a test's own: ``with serve(open_engine, **settings) as service``."""
    return serving


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory, embedder: Embedder) -> Iterator[RunningService]:
    """One service for all tests of this process: each takes a tenant of its own."""
    from memos.config import Settings
    from memos.engine import MemoryOS

    home = tmp_path_factory.mktemp("service")
    with serving(lambda: MemoryOS(Settings(home=home, notes="off", compose="off"), embedder)) as service:
        service.key()  # from now on nobody is let in without one
        yield service
