"""The parametric tier: adapters and cartridges, their versions and their gates."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "adapters",
        sa.Column("cube_id", sa.String(length=36), nullable=False),
        sa.Column("namespace_id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=True),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("base", sa.String(length=64), nullable=False),
        sa.Column("payload", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=256), nullable=True),
        sa.Column("series", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("gate", JSON, nullable=True),
        sa.Column("provenance", JSON, nullable=False),
        sa.Column("hits", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["cube_id"], ["cubes.id"], name=op.f("fk_adapters_cube_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["namespace_id"], ["namespaces.id"], name=op.f("fk_adapters_namespace_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("cube_id", name=op.f("pk_adapters")),
        sa.UniqueConstraint("key", name=op.f("uq_adapters_key")),
        sa.UniqueConstraint("namespace_id", "series", "version", name=op.f("uq_adapters_namespace_id_series_version")),
    )
    op.create_index("ix_adapters_namespace_id_state", "adapters", ["namespace_id", "state"], unique=False)


def downgrade() -> None:
    """Undo; the derived cubes go, the memories they were made of stay."""
    op.execute("DELETE FROM cubes WHERE kind = 'parametric'")
    op.drop_index("ix_adapters_namespace_id_state", "adapters")
    op.drop_table("adapters")
