"""Tables. SQL is the truth; everything else in this package can be rebuilt from it.

Times are microseconds since the epoch (UTC) in ``BigInteger`` columns: one meaning on SQLite and PostgreSQL, no
parsing. Vectors are little-endian float32 bytes of unit length. Every *memory table* carries ``namespace_id``
and may be queried only through :class:`memos.store.scoped.ScopedRepository`.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_N_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Json = JSON().with_variant(JSONB(), "postgresql")
#: SQLite autoincrements only a column declared exactly INTEGER.
Serial = BigInteger().with_variant(Integer(), "sqlite")
ID = String(36)
NAME = String(256)
#: Characters of the longest name of a KV codec.
CODEC_LENGTH = 256


def _namespace() -> Column[int]:
    return Column("namespace_id", Integer, ForeignKey("namespaces.id", ondelete="CASCADE"), nullable=False)


#: ``revision`` grows by one with every write transaction of the namespace; its row lock orders writers.
#: ``indexed_revision`` is the vector index's cursor; ``floor_revision`` the newest revision whose deletion records
#: were trimmed, so a reader behind it must reload. ``indexing`` says that the collection is being written.
namespaces = Table(
    "namespaces",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("tenant", NAME, nullable=False),
    Column("user_id", NAME, nullable=False),
    Column("revision", BigInteger, nullable=False, server_default=text("0")),
    Column("floor_revision", BigInteger, nullable=False, server_default=text("0")),
    Column("indexed_revision", BigInteger, nullable=False, server_default=text("0")),
    Column("collection", String(128)),
    Column("indexing", Boolean, nullable=False, server_default=text("false")),
    Column("memories", Integer, nullable=False, server_default=text("0")),
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("tenant", "user_id"),
)

embedders = Table(
    "embedders",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("identity", String(512), nullable=False, unique=True),
    Column("dimension", Integer, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

#: ``scribe`` wrote the note of a memory: ``offline`` or the name of a model; ``remark`` says what went otherwise than
#: wished: why a model's answer could not be used, what a text repeats.
cubes = Table(
    "cubes",
    metadata,
    Column("id", ID, primary_key=True),
    _namespace(),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("version", Integer, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("agent_id", NAME),
    Column("run_id", NAME),
    Column("source", NAME, nullable=False),
    Column("author", NAME),
    Column("infer", Boolean, nullable=False),
    Column("sensitivity", String(32), nullable=False),
    Column("pinned", Boolean, nullable=False),
    Column("frozen", Boolean, nullable=False),
    Column("acl", Json, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("valid_to", BigInteger),
    Column("expires_at", BigInteger),
    Column("recall_count", Integer, nullable=False),
    Column("last_recalled_at", BigInteger),
    Column("heat", Float, nullable=False),
    Column("scribe", NAME),
    Column("remark", Text),
    Index("ix_cubes_namespace_id_id", "namespace_id", "id"),
    Index("ix_cubes_namespace_id_infer_scribe", "namespace_id", "infer", "scribe"),
    Index("ix_cubes_namespace_id_revision", "namespace_id", "revision"),
    Index(
        "ix_cubes_expires_at",
        "expires_at",
        sqlite_where=text("expires_at IS NOT NULL"),
        postgresql_where=text("expires_at IS NOT NULL"),
    ),
)

#: Content of a plaintext cube, one row per version. ``terms`` are its stems: the lexical index's truth. ``changes`` are
#: the attributes in which a version that evolution wrote differs from the one before, as ``{name: [before, after]}``.
versions = Table(
    "versions",
    metadata,
    Column("cube_id", ID, ForeignKey("cubes.id", ondelete="CASCADE"), primary_key=True),
    Column("version", Integer, primary_key=True),
    _namespace(),
    Column("text", Text, nullable=False),
    Column("terms", Text, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("metadata", Json, nullable=False),
    Column("title", Text),
    Column("keywords", Json, nullable=False),
    Column("tags", Json, nullable=False),
    Column("context", Text),
    Column("language", String(16)),
    Column("entities", Json, nullable=False, server_default=text("'[]'")),
    Column("importance", Float),
    Column("event_time", BigInteger),
    Column("valid_from", BigInteger, nullable=False),
    Column("author", NAME),
    Column("reason", Text),
    Column("changes", Json),
    Column("created_at", BigInteger, nullable=False),
)

#: ``vector`` is of the text alone, ``enriched`` of the text with what the note says about it (once there is a note).
vectors = Table(
    "vectors",
    metadata,
    Column("cube_id", ID, ForeignKey("cubes.id", ondelete="CASCADE"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("embedder_id", Integer, ForeignKey("embedders.id"), primary_key=True),
    _namespace(),
    Column("vector", LargeBinary, nullable=False),
    Column("enriched", LargeBinary),
)

#: What a cube was made from: notes of a derived cube, or the near-duplicates that a note stands for.
parents = Table(
    "parents",
    metadata,
    Column("cube_id", ID, ForeignKey("cubes.id", ondelete="CASCADE"), primary_key=True),
    Column("parent_id", ID, primary_key=True),
    Column("parent_version", Integer, primary_key=True),
    _namespace(),
    Column("position", Integer, nullable=False, server_default=text("0")),
    Index("ix_parents_parent_id", "parent_id"),
)

#: What a version's note says with the help of other memories: forgetting one of them takes it back. ``source_id`` is no
#: foreign key: what forgets a memory looks here first.
influences = Table(
    "influences",
    metadata,
    Column("cube_id", ID, ForeignKey("cubes.id", ondelete="CASCADE"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("source_id", ID, primary_key=True),
    _namespace(),
    Index("ix_influences_source_id", "source_id"),
)

#: The payload of an activation cube: where its KV file is and what it was made for. ``key`` names the file; ``loss``
#: is the measured KL divergence per token that a lossy codec costs, in nats.
#: An index only: the files describe themselves, and ``memos doctor --rebuild-kv`` writes these rows anew from them.
activations = Table(
    "activations",
    metadata,
    Column("cube_id", ID, ForeignKey("cubes.id", ondelete="CASCADE"), primary_key=True),
    _namespace(),
    Column("key", String(64), nullable=False, unique=True),
    Column("fingerprint", String(64), nullable=False),
    Column("codec", String(CODEC_LENGTH), nullable=False),
    Column("tokens", Integer, nullable=False),
    Column("head_tokens", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("raw_bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("loss", Float),
    Column("hits", Integer, nullable=False, server_default=text("0")),
    Column("misses", Integer, nullable=False, server_default=text("0")),
    Column("tokens_reused", BigInteger, nullable=False, server_default=text("0")),
    Column("created_at", BigInteger, nullable=False),
    Index("ix_activations_namespace_id_fingerprint", "namespace_id", "fingerprint"),
)

#: The payload of a parametric cube: an adapter or cartridge, or the report of one that failed its gate and has no file
#: (``key`` is NULL). What is trained from the same notes, or under the same name, is a ``series`` of versions, of which
#: one is published. ``base`` is the model it belongs to, ``digest`` its content.
adapters = Table(
    "adapters",
    metadata,
    Column("cube_id", ID, ForeignKey("cubes.id", ondelete="CASCADE"), primary_key=True),
    _namespace(),
    Column("key", String(64), unique=True),
    Column("digest", String(64), nullable=False),
    Column("base", String(64), nullable=False),
    Column("payload", String(16), nullable=False),
    Column("name", NAME),
    Column("series", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("rank", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("tokens", Integer, nullable=False),
    Column("gate", Json),
    Column("provenance", Json, nullable=False),
    Column("hits", Integer, nullable=False, server_default=text("0")),
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("namespace_id", "series", "version"),
    Index("ix_adapters_namespace_id_state", "namespace_id", "state"),
)

links = Table(
    "links",
    metadata,
    Column("source_id", ID, ForeignKey("cubes.id", ondelete="CASCADE"), primary_key=True),
    Column("target_id", ID, ForeignKey("cubes.id", ondelete="CASCADE"), primary_key=True),
    Column("type", String(32), primary_key=True),
    _namespace(),
    Column("source_version", Integer, nullable=False),
    Column("target_version", Integer, nullable=False),
    Column("score", Float, nullable=False),
    Column("author", NAME, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("ix_links_target_id", "target_id"),
)

#: The deletion half of the change feed that indexes follow (``delete`` lists ``cube_ids``, ``clear`` empties the
#: namespace). The other half needs no rows of its own: what was written since revision r is ``cubes.revision > r``.
outbox = Table(
    "outbox",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    _namespace(),
    Column("revision", BigInteger, nullable=False),
    Column("op", String(8), nullable=False),
    Column("cube_ids", Json, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("ix_outbox_namespace_id_revision", "namespace_id", "revision"),
)

#: ``tenant`` is that of the namespace, for the index that finds whose turn it is. ``cancelling`` asks a job's runner to
#: end it. A job of a higher ``priority`` runs sooner; none runs before ``run_after``.
jobs = Table(
    "jobs",
    metadata,
    Column("id", ID, primary_key=True),
    _namespace(),
    Column("tenant", NAME, nullable=False, server_default=text("''")),
    Column("task", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("payload", Json, nullable=False),
    Column("result", Json),
    Column("error", Text),
    Column("progress", Float, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("run_after", BigInteger, nullable=False),
    Column("lease_owner", String(128)),
    Column("lease_until", BigInteger),
    Column("cancelling", Boolean, nullable=False, server_default=text("false")),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Index("ix_jobs_namespace_id_state_task", "namespace_id", "state", "task"),
)
#: No index begins with ``run_after``: SQLite would sort all jobs that are due to find the first of a tenant.
Index("ix_jobs_turns", jobs.c.state, jobs.c.tenant, jobs.c.priority.desc(), jobs.c.id, jobs.c.run_after)

#: How many jobs ended how, in all processes and ever: the rows of the jobs themselves go in time.
job_totals = Table(
    "job_totals",
    metadata,
    Column("task", String(64), primary_key=True),
    Column("state", String(16), primary_key=True),
    Column("count", BigInteger, nullable=False),
)

#: What was measured of composing caches of a model, and why it is not served composed prompts, if it is not.
compositions = Table(
    "compositions",
    metadata,
    Column("fingerprint", String(64), primary_key=True),
    Column("name", NAME, nullable=False),
    Column("divergence", Float),
    Column("agreement", Float),
    Column("refusal", Text),
    Column("drift", LargeBinary),
    Column("created_at", BigInteger, nullable=False),
)

#: Who did what to which cube; never content.
audit = Table(
    "audit",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    _namespace(),
    Column("action", String(32), nullable=False),
    Column("cube_id", ID),
    Column("detail", Json, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("ix_audit_namespace_id_id", "namespace_id", "id"),
)

#: ``cube_ids`` are the memories that a store made; what another write is answered with can be made from ``answer``.
idempotency = Table(
    "idempotency",
    metadata,
    Column("key", NAME, primary_key=True),
    Column(
        "namespace_id",
        Integer,
        ForeignKey("namespaces.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("digest", String(64), nullable=False),
    Column("cube_ids", Json, nullable=False),
    Column("answer", Json),
    Column("expires_at", BigInteger, nullable=False),
    Index("ix_idempotency_key", "key"),
    Index("ix_idempotency_namespace_id", "namespace_id"),
)

#: Legal holds: while there is one, a memory (the whole namespace where ``cube_id`` is NULL) cannot be deleted.
holds = Table(
    "holds",
    metadata,
    Column("id", ID, primary_key=True),
    _namespace(),
    Column("cube_id", ID),
    Column("reason", NAME),
    Column("created_at", BigInteger, nullable=False),
    Index("ix_holds_namespace_id", "namespace_id"),
)

#: How many days memories of a namespace are kept; without a row, for good.
retentions = Table(
    "retentions",
    metadata,
    Column(
        "namespace_id",
        Integer,
        ForeignKey("namespaces.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("days", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

#: How the KV files of a namespace are made and put together; NULL, or no row, is as the process is set.
kv_settings = Table(
    "kv_settings",
    metadata,
    Column(
        "namespace_id",
        Integer,
        ForeignKey("namespaces.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("codec", String(CODEC_LENGTH)),
    Column("compose", String(16)),
    Column("ratio", Float),
)

#: Files that were handed out, and whose deletion is up to whoever has them: never content. ``sources`` are the memories
#: in one; NULL stands for all that the scope held at ``created_at``. ``path_digest`` (SHA-256) is of where it was
#: written, if that was somebody's file; ``digest`` of the file itself.
exports = Table(
    "exports",
    metadata,
    Column("id", ID, primary_key=True),
    _namespace(),
    Column("kind", String(16), nullable=False),
    Column("agent_id", NAME),
    Column("run_id", NAME),
    Column("sources", JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")),
    Column("path_digest", String(64)),
    Column("digest", String(64)),
    Column("memories", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("ix_exports_namespace_id", "namespace_id"),
)

#: Who may use the service, as whom: rows of a tenant, not of a namespace. ``digest`` is the SHA-256 of the secret.
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant", NAME, nullable=False),
    Column("name", NAME),
    Column("digest", String(64), nullable=False),
    Column("scopes", Json, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Index("ix_api_keys_tenant", "tenant"),
)

#: Tables whose rows belong to one namespace: off limits outside scoped repositories (tests/test_scope_rule.py).
MEMORY_TABLES = (
    cubes,
    versions,
    vectors,
    parents,
    influences,
    activations,
    adapters,
    links,
    outbox,
    jobs,
    audit,
    idempotency,
    holds,
    retentions,
    kv_settings,
    exports,
)
