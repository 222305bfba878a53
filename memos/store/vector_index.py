"""The vector index on Chroma: one collection per large namespace, rebuildable from SQL at any time.

Small namespaces have no collection: scanning them is faster than asking Chroma, and ten thousand collections cost ten
thousand folders and file handles (measured in benchmarks/collection_granularity.py, decision record 002).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from memos.errors import StoreError, StoreUnavailable
from memos.store.database import compact

if TYPE_CHECKING:
    import httpx
    from chromadb.api import ClientAPI
    from chromadb.api.models.Collection import Collection

logger = logging.getLogger(__name__)

#: HNSW beam width while searching; a little above Chroma's default 100, because recall asks for 100 neighbours.
EF_SEARCH = 128
#: How long Chroma may take for one answer; a server that hangs is as good as down.
TIMEOUT_S = 30.0
_BATCH = 4_096


class VectorIndex:
    """Nearest neighbours by cosine, over collections addressed by name.

    Every failure of Chroma surfaces as :class:`memos.errors.StoreUnavailable`; recall then scans exactly instead.
    Its ``extra['damaged']`` says that Chroma answered, but could not read or write the collection's own files: a
    ``kill -9`` can leave them torn, and then only building the collection anew helps.
    """

    def __init__(self, path: Path | None, url: str | None) -> None:
        self._path = path
        self._url = url
        self._lock = threading.RLock()
        self._collections: dict[str, Collection] = {}
        self._opened: ClientAPI | None = None
        self._emptied = False

    @property
    def configured(self) -> bool:
        """Whether there is a folder or a server to keep collections in."""
        return self._path is not None or self._url is not None

    @property
    def local(self) -> bool:
        """Whether the collections lie in a folder of this process."""
        return self._path is not None and self._url is None

    def upsert(self, name: str, ids: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Add or replace vectors (float32 ``[len(ids), dimension]``) in collection ``name``, created if missing."""
        collection = self._collection(name, create=True)
        for start in range(0, len(ids), _BATCH):
            part = slice(start, start + _BATCH)
            with self._present(name):
                self._call(collection.upsert, ids=list(ids[part]), embeddings=vectors[part])

    def remove(self, name: str, ids: Sequence[str]) -> None:
        """Remove ids from collection ``name``; unknown ones are ignored."""
        self._emptied = True
        collection = self._collection(name, create=True)
        for start in range(0, len(ids), _BATCH):
            with self._present(name):
                self._call(collection.delete, ids=list(ids[start : start + _BATCH]))

    def present(self, name: str, ids: Sequence[str]) -> set[str]:
        """Return which of ``ids`` collection ``name`` has a vector of."""
        found: set[str] = set()
        for start in range(0, len(ids), _BATCH):
            with self._present(name):
                part = list(ids[start : start + _BATCH])
                found.update(self._call(self._collection(name, create=False).get, ids=part, include=[])["ids"])
        return found

    def drop(self, name: str) -> None:
        """Delete collection ``name`` if it exists."""
        with self._lock:
            self._collections.pop(name, None)
        try:
            self._call(self._client.delete_collection, name)
        except _chroma().errors.NotFoundError:
            return
        self._emptied = True

    def nearest(self, name: str, query: NDArray[np.float32], count: int) -> list[str]:
        """Return up to ``count`` ids nearest to the unit vector ``query`` ``[dimension]``, nearest first."""
        with self._present(name):
            collection = self._collection(name, create=False)
            found = self._call(collection.query, query_embeddings=query[None, :], n_results=count, include=[])
        ids: list[str] = found["ids"][0]
        return ids

    def exists(self, name: str) -> bool:
        """Ask Chroma whether collection ``name`` is there."""
        with self._lock:
            self._collections.pop(name, None)
        try:
            self._collection(name, create=False)
        except _chroma().errors.NotFoundError:
            return False
        return True

    def size(self, name: str) -> int:
        """Return the number of vectors in collection ``name``."""
        with self._present(name):
            return int(self._call(self._collection(name, create=False).count))

    def pages(self, name: str) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """Yield what collection ``name`` holds, page by page: ids and float32 ``[n, dimension]`` vectors."""
        offset = 0
        while True:
            with self._present(name):
                get = self._collection(name, create=False).get
                page = self._call(get, limit=_BATCH, offset=offset, include=["embeddings"])
            if not page["ids"]:
                return
            yield page["ids"], np.asarray(page["embeddings"], np.float32)
            offset += len(page["ids"])

    def names(self) -> list[str]:
        """Return the names of all collections."""
        return [collection.name for collection in self._call(self._client.list_collections)]

    def close(self) -> None:
        """Release Chroma's files and threads, if it was ever opened."""
        with self._lock:
            client, self._opened = self._opened, None
            self._collections.clear()
        if client is None:
            return
        sessions = _sessions(client)
        client.close()  # type: ignore[attr-defined]  # every client has it, the interface does not
        for session in sessions:
            session.close()
        self._compact()

    def _compact(self) -> None:
        """Let Chroma's own database forget what was removed: what it deletes stays on its free pages."""
        if self.local and self._emptied and self._path is not None:
            try:
                compact(self._path / "chroma.sqlite3")
            except StoreError as error:  # nothing is lost by that, and the next orderly end tries again
                logger.warning("the vector index was not compacted: %s", error)

    @property
    def _client(self) -> ClientAPI:
        with self._lock:
            if self._opened is None:
                self._opened = self._connect()
            return self._opened

    def _connect(self) -> ClientAPI:
        if not self.configured:
            raise StoreUnavailable("no vector index here: PostgreSQL needs MEMOS_CHROMA_URL for one")
        chromadb = _chroma()
        settings = chromadb.config.Settings(anonymized_telemetry=False)
        client: ClientAPI
        if self._url is None:
            client = self._call(chromadb.PersistentClient, str(self._path), settings=settings)
            return client
        parts = urlsplit(self._url)
        client = self._call(
            chromadb.HttpClient,
            host=parts.hostname or "localhost",
            port=parts.port or (443 if parts.scheme == "https" else 8000),
            ssl=parts.scheme == "https",
            settings=settings,
        )
        for session in _sessions(client):
            session.timeout = TIMEOUT_S
        return client

    @contextmanager
    def _present(self, name: str) -> Iterator[None]:
        """Turn "no such collection" into :class:`StoreUnavailable`: somebody else deleted it."""
        try:
            yield
        except _chroma().errors.NotFoundError as error:
            with self._lock:
                self._collections.pop(name, None)
            raise StoreUnavailable(f"collection {name} is missing; run `memos reindex`") from error

    def _collection(self, name: str, *, create: bool) -> Collection:
        with self._lock:
            if name not in self._collections:
                self._collections[name] = self._open(name, create=create)
            return self._collections[name]

    def _open(self, name: str, *, create: bool) -> Collection:
        collection: Collection
        if not create:
            collection = self._call(self._client.get_collection, name, embedding_function=None)
            return collection
        collection = self._call(
            self._client.get_or_create_collection,
            name,
            embedding_function=None,
            configuration={"hnsw": {"space": "cosine", "ef_search": EF_SEARCH}},
        )
        return collection

    def _call(self, function: Any, *arguments: Any, **options: Any) -> Any:
        import httpx

        errors = _chroma().errors
        try:
            return function(*arguments, **options)
        except errors.NotFoundError:
            raise
        except errors.InternalError as error:
            raise StoreUnavailable(f"the vector index is damaged: {error}", damaged=True) from error
        except (errors.ChromaError, httpx.HTTPError, AttributeError, ValueError, OSError) as error:
            # AttributeError is what Chroma's embedded client gives when an attempt to start it failed before.
            raise StoreUnavailable(f"the vector index does not answer: {error}") from error


def _chroma() -> Any:
    """Import Chroma, which takes half a second: only when a namespace is large enough.

    Raises :class:`StoreUnavailable` for a user without a home directory, which Chroma asks for while it is imported.
    """
    try:
        import chromadb.config
        import chromadb.errors
    except RuntimeError as error:
        raise StoreUnavailable(f"the vector index needs a home directory; set HOME: {error}") from error
    return chromadb


def _sessions(client: ClientAPI) -> list[httpx.Client]:
    """Return the HTTP sessions of a client, to which Chroma gives no timeout and which it never closes."""
    owners = [client, getattr(client, "_admin_client", None)]
    servers = [getattr(owner, "_server", None) for owner in owners]
    return [server._session for server in servers if server and hasattr(server, "_session")]
