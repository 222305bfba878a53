"""The activation tier: the index of KV files, and the order of a cube's parents."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("parents", sa.Column("position", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.create_table(
        "activations",
        sa.Column("cube_id", sa.String(length=36), nullable=False),
        sa.Column("namespace_id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("codec", sa.String(length=256), nullable=False),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("head_tokens", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("raw_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("loss", sa.Float(), nullable=True),
        sa.Column("hits", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("misses", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("tokens_reused", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["cube_id"], ["cubes.id"], name=op.f("fk_activations_cube_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["namespace_id"], ["namespaces.id"], name=op.f("fk_activations_namespace_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("cube_id", name=op.f("pk_activations")),
        sa.UniqueConstraint("key", name=op.f("uq_activations_key")),
    )
    op.create_index(
        "ix_activations_namespace_id_fingerprint", "activations", ["namespace_id", "fingerprint"], unique=False
    )


def downgrade() -> None:
    """Undo; the derived cubes go, the memories they were made of stay."""
    op.execute("DELETE FROM cubes WHERE kind = 'activation'")
    op.drop_index("ix_activations_namespace_id_fingerprint", "activations")
    op.drop_table("activations")
    op.drop_column("parents", "position")
