"""How a user's KV files are made and put together, where that differs from the settings of the process."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "kv_settings",
        sa.Column("namespace_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("codec", sa.String(length=256), nullable=True),
        sa.Column("compose", sa.String(length=16), nullable=True),
        sa.Column("ratio", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(
            ["namespace_id"], ["namespaces.id"], name=op.f("fk_kv_settings_namespace_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("namespace_id", name=op.f("pk_kv_settings")),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("kv_settings")
