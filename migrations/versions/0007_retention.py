"""Legal holds, retention, and which files were handed out; what expires is found by an index."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
EXPIRES = sa.text("expires_at IS NOT NULL")
#: How the remark begins of a memory that repeats recalled ones, whose ids follow.
ECHO = "repeats what was recalled: "


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "holds",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("namespace_id", sa.Integer(), nullable=False),
        sa.Column("cube_id", sa.String(length=36), nullable=True),
        sa.Column("reason", sa.String(length=256), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace_id"], ["namespaces.id"], name=op.f("fk_holds_namespace_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_holds")),
    )
    op.create_index("ix_holds_namespace_id", "holds", ["namespace_id"], unique=False)
    op.create_table(
        "retentions",
        sa.Column("namespace_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("days", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace_id"], ["namespaces.id"], name=op.f("fk_retentions_namespace_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("namespace_id", name=op.f("pk_retentions")),
    )
    op.create_table(
        "exports",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("namespace_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("agent_id", sa.String(length=256), nullable=True),
        sa.Column("run_id", sa.String(length=256), nullable=True),
        sa.Column("sources", JSON, nullable=True),
        sa.Column("path_digest", sa.String(length=64), nullable=True),
        sa.Column("digest", sa.String(length=64), nullable=True),
        sa.Column("memories", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace_id"], ["namespaces.id"], name=op.f("fk_exports_namespace_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_exports")),
    )
    op.create_index("ix_exports_namespace_id", "exports", ["namespace_id"], unique=False)
    op.create_index(
        "ix_cubes_expires_at", "cubes", ["expires_at"], unique=False, sqlite_where=EXPIRES, postgresql_where=EXPIRES
    )
    op.create_index("ix_idempotency_namespace_id", "idempotency", ["namespace_id"], unique=False)
    _trace_echoes(op.get_bind())


def _trace_echoes(connection: sa.Connection) -> None:
    """Say in ``influences`` what quarantined memories repeat, as is said of new ones: they are forgotten with it."""
    cubes = sa.table("cubes", *map(sa.column, ("id", "version", "namespace_id", "remark")))
    influences = sa.table("influences", *map(sa.column, ("cube_id", "version", "source_id", "namespace_id")))
    known = {tuple(row) for row in connection.execute(sa.select(influences.c.cube_id, influences.c.source_id))}
    echoes = connection.execute(sa.select(cubes).where(cubes.c.remark.like(f"{ECHO}%"))).all()
    rows = [
        {"cube_id": echo.id, "version": echo.version, "source_id": source, "namespace_id": echo.namespace_id}
        for echo in echoes
        for source in echo.remark.removeprefix(ECHO).split(", ")
        if (echo.id, source) not in known
    ]
    if rows:
        connection.execute(sa.insert(influences), rows)


def downgrade() -> None:
    """Undo."""
    op.drop_index("ix_idempotency_namespace_id", "idempotency")
    op.drop_index("ix_cubes_expires_at", "cubes")
    op.drop_index("ix_exports_namespace_id", "exports")
    op.drop_table("exports")
    op.drop_table("retentions")
    op.drop_index("ix_holds_namespace_id", "holds")
    op.drop_table("holds")
