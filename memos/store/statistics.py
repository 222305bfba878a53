"""What a namespace holds."""

from __future__ import annotations

from memos.cube import Frozen, Scope
from memos.store import embedder_table, namespaces
from memos.store.activations import ActivationRepository
from memos.store.adapters import AdapterRepository
from memos.store.cubes import CubeRepository
from memos.store.database import Database
from memos.store.notes import NoteRepository


class Statistics(Frozen):
    """Counts of one namespace. ``index_lag`` is the number of write transactions its collection has still to follow.

    ``merged`` counts near-duplicates that one of the ``memories`` stands for, ``waiting`` those whose note is not
    written yet.
    ``activations`` counts KV files that stand now, with their tokens and bytes on disk, how often chats used them
    (``hits``), how often one that should have served could not (``misses``), and the tokens chats did not recompute.
    ``adapters`` counts what is published in the parametric tier, with the bytes and uses of all its versions.
    Of what was not in host memory by its last use, ``prefetch_hits`` had been brought there before it was needed and
    ``prefetch_misses`` had to be read then; ``prefetch_hit_rate`` is the share of the former. ``prefetch_bytes`` were
    brought there, ``prefetch_wasted_bytes`` of them dropped unused. The engine counts these since it opened the store.
    """

    user_id: str
    memories: int = 0
    merged: int = 0
    waiting: int = 0
    versions: int = 0
    vectors: int = 0
    links: int = 0
    text_characters: int = 0
    embedder: str | None = None
    dimension: int | None = None
    indexed: bool = False
    index_lag: int = 0
    activations: int = 0
    activation_tokens: int = 0
    activation_bytes: int = 0
    activation_hits: int = 0
    activation_misses: int = 0
    tokens_reused: int = 0
    adapters: int = 0
    adapter_bytes: int = 0
    adapter_hits: int = 0
    prefetch_hits: int = 0
    prefetch_misses: int = 0
    prefetch_hit_rate: float = 0.0
    prefetch_bytes: int = 0
    prefetch_wasted_bytes: int = 0


def statistics(database: Database, scope: Scope) -> Statistics:
    """Count one namespace; all zeros where nothing was ever stored."""
    with database.read() as connection:
        embedder = embedder_table.active(connection)
        empty = Statistics(
            user_id=scope.user_id,
            embedder=embedder.identity if embedder else None,
            dimension=embedder.dimension if embedder else None,
        )
        namespace = namespaces.find(connection, scope)
        if namespace is None:
            return empty
        counts = CubeRepository(connection, namespace.id).counts()
        waiting = NoteRepository(connection, namespace.id).count_waiting()
        adapters = AdapterRepository(connection, namespace.id).totals()
        kv = ActivationRepository(connection, namespace.id).totals()
    lag = namespace.revision - namespace.indexed_revision
    return empty.model_copy(
        update={
            "memories": counts["cubes"],
            "merged": counts["merged"],
            "waiting": waiting,
            "versions": counts["versions"],
            "vectors": counts["vectors"],
            "links": counts["links"],
            "text_characters": counts["text_characters"],
            "indexed": namespace.collection is not None,
            "index_lag": lag if namespace.collection else 0,
            "activations": kv["count"],
            "activation_tokens": kv["tokens"],
            "activation_bytes": kv["bytes"],
            "activation_hits": kv["hits"],
            "activation_misses": kv["misses"],
            "tokens_reused": kv["tokens_reused"],
            "adapters": adapters["count"],
            "adapter_bytes": adapters["bytes"],
            "adapter_hits": adapters["hits"],
        }
    )
