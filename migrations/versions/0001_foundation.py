"""The foundation: namespaces, cubes, versions, vectors, links, lineage, outbox, jobs, audit, idempotency."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "embedders",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("identity", sa.String(length=512), nullable=False),
        sa.Column("dimension", sa.Integer(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_embedders")),
        sa.UniqueConstraint("identity", name=op.f("uq_embedders_identity")),
    )
    op.create_table(
        "namespaces",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("tenant", sa.String(length=256), nullable=False),
        sa.Column("user_id", sa.String(length=256), nullable=False),
        sa.Column("revision", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("floor_revision", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("indexed_revision", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("collection", sa.String(length=128), nullable=True),
        sa.Column("indexing", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("memories", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_namespaces")),
        sa.UniqueConstraint("tenant", "user_id", name=op.f("uq_namespaces_tenant_user_id")),
    )
    op.create_table(
        "audit",
        sa.Column("id", SERIAL, autoincrement=True, nullable=False),
        sa.Column("namespace_id", sa.Integer(), nullable=False),
        sa.Column("action", sa.String(length=32), nullable=False),
        sa.Column("cube_id", sa.String(length=36), nullable=True),
        sa.Column("detail", JSON, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace_id"],
            ["namespaces.id"],
            name=op.f("fk_audit_namespace_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index("ix_audit_namespace_id_id", "audit", ["namespace_id", "id"], unique=False)

    op.create_table(
        "cubes",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("namespace_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("agent_id", sa.String(length=256), nullable=True),
        sa.Column("run_id", sa.String(length=256), nullable=True),
        sa.Column("source", sa.String(length=256), nullable=False),
        sa.Column("author", sa.String(length=256), nullable=True),
        sa.Column("infer", sa.Boolean(), nullable=False),
        sa.Column("sensitivity", sa.String(length=32), nullable=False),
        sa.Column("pinned", sa.Boolean(), nullable=False),
        sa.Column("frozen", sa.Boolean(), nullable=False),
        sa.Column("acl", JSON, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("valid_to", sa.BigInteger(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("recall_count", sa.Integer(), nullable=False),
        sa.Column("last_recalled_at", sa.BigInteger(), nullable=True),
        sa.Column("heat", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace_id"],
            ["namespaces.id"],
            name=op.f("fk_cubes_namespace_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cubes")),
    )
    op.create_index("ix_cubes_namespace_id_id", "cubes", ["namespace_id", "id"], unique=False)
    op.create_index("ix_cubes_namespace_id_revision", "cubes", ["namespace_id", "revision"], unique=False)

    op.create_table(
        "idempotency",
        sa.Column("key", sa.String(length=256), nullable=False),
        sa.Column("namespace_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("cube_ids", JSON, nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace_id"],
            ["namespaces.id"],
            name=op.f("fk_idempotency_namespace_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("key", "namespace_id", name=op.f("pk_idempotency")),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("namespace_id", sa.Integer(), nullable=False),
        sa.Column("task", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("payload", JSON, nullable=False),
        sa.Column("result", JSON, nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("progress", sa.Float(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("run_after", sa.BigInteger(), nullable=False),
        sa.Column("lease_owner", sa.String(length=128), nullable=True),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace_id"],
            ["namespaces.id"],
            name=op.f("fk_jobs_namespace_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    op.create_index("ix_jobs_state_run_after", "jobs", ["state", "run_after"], unique=False)

    op.create_table(
        "outbox",
        sa.Column("id", SERIAL, autoincrement=True, nullable=False),
        sa.Column("namespace_id", sa.Integer(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("op", sa.String(length=8), nullable=False),
        sa.Column("cube_ids", JSON, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace_id"],
            ["namespaces.id"],
            name=op.f("fk_outbox_namespace_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
    )
    op.create_index("ix_outbox_namespace_id_revision", "outbox", ["namespace_id", "revision"], unique=False)

    op.create_table(
        "links",
        sa.Column("source_id", sa.String(length=36), nullable=False),
        sa.Column("target_id", sa.String(length=36), nullable=False),
        sa.Column("type", sa.String(length=32), nullable=False),
        sa.Column("namespace_id", sa.Integer(), nullable=False),
        sa.Column("source_version", sa.Integer(), nullable=False),
        sa.Column("target_version", sa.Integer(), nullable=False),
        sa.Column("score", sa.Float(), nullable=False),
        sa.Column("author", sa.String(length=256), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace_id"],
            ["namespaces.id"],
            name=op.f("fk_links_namespace_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["source_id"], ["cubes.id"], name=op.f("fk_links_source_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["target_id"], ["cubes.id"], name=op.f("fk_links_target_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("source_id", "target_id", "type", name=op.f("pk_links")),
    )
    op.create_index("ix_links_target_id", "links", ["target_id"], unique=False)

    op.create_table(
        "parents",
        sa.Column("cube_id", sa.String(length=36), nullable=False),
        sa.Column("parent_id", sa.String(length=36), nullable=False),
        sa.Column("parent_version", sa.Integer(), nullable=False),
        sa.Column("namespace_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["cube_id"], ["cubes.id"], name=op.f("fk_parents_cube_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["namespace_id"],
            ["namespaces.id"],
            name=op.f("fk_parents_namespace_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("cube_id", "parent_id", "parent_version", name=op.f("pk_parents")),
    )
    op.create_index("ix_parents_parent_id", "parents", ["parent_id"], unique=False)

    op.create_table(
        "vectors",
        sa.Column("cube_id", sa.String(length=36), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("embedder_id", sa.Integer(), nullable=False),
        sa.Column("namespace_id", sa.Integer(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["cube_id"], ["cubes.id"], name=op.f("fk_vectors_cube_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["embedder_id"], ["embedders.id"], name=op.f("fk_vectors_embedder_id")),
        sa.ForeignKeyConstraint(
            ["namespace_id"],
            ["namespaces.id"],
            name=op.f("fk_vectors_namespace_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("cube_id", "version", "embedder_id", name=op.f("pk_vectors")),
    )
    op.create_table(
        "versions",
        sa.Column("cube_id", sa.String(length=36), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("namespace_id", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("terms", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("metadata", JSON, nullable=False),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("keywords", JSON, nullable=False),
        sa.Column("tags", JSON, nullable=False),
        sa.Column("context", sa.Text(), nullable=True),
        sa.Column("language", sa.String(length=16), nullable=True),
        sa.Column("event_time", sa.BigInteger(), nullable=True),
        sa.Column("valid_from", sa.BigInteger(), nullable=False),
        sa.Column("author", sa.String(length=256), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["cube_id"], ["cubes.id"], name=op.f("fk_versions_cube_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["namespace_id"],
            ["namespaces.id"],
            name=op.f("fk_versions_namespace_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("cube_id", "version", name=op.f("pk_versions")),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("versions")
    op.drop_table("vectors")
    op.drop_index("ix_parents_parent_id", "parents")

    op.drop_table("parents")
    op.drop_index("ix_links_target_id", "links")

    op.drop_table("links")
    op.drop_index("ix_outbox_namespace_id_revision", "outbox")

    op.drop_table("outbox")
    op.drop_index("ix_jobs_state_run_after", "jobs")

    op.drop_table("jobs")
    op.drop_table("idempotency")
    op.drop_index("ix_cubes_namespace_id_revision", "cubes")
    op.drop_index("ix_cubes_namespace_id_id", "cubes")

    op.drop_table("cubes")
    op.drop_index("ix_audit_namespace_id_id", "audit")

    op.drop_table("audit")
    op.drop_table("namespaces")
    op.drop_table("embedders")
