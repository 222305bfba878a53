"""Notes: what they say beside a memory's text, who wrote that, and the vector of both."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    """Apply."""
    op.add_column("cubes", sa.Column("scribe", sa.String(length=256), nullable=True))
    op.add_column("cubes", sa.Column("remark", sa.Text(), nullable=True))
    op.add_column("versions", sa.Column("entities", JSON, server_default=sa.text("'[]'"), nullable=False))
    op.add_column("versions", sa.Column("importance", sa.Float(), nullable=True))
    op.add_column("versions", sa.Column("changes", JSON, nullable=True))
    op.add_column("vectors", sa.Column("enriched", sa.LargeBinary(), nullable=True))
    op.create_index("ix_cubes_namespace_id_infer_scribe", "cubes", ["namespace_id", "infer", "scribe"], unique=False)
    op.create_table(
        "influences",
        sa.Column("cube_id", sa.String(length=36), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("source_id", sa.String(length=36), nullable=False),
        sa.Column("namespace_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["cube_id"], ["cubes.id"], name=op.f("fk_influences_cube_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["namespace_id"], ["namespaces.id"], name=op.f("fk_influences_namespace_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("cube_id", "version", "source_id", name=op.f("pk_influences")),
    )
    op.create_index("ix_influences_source_id", "influences", ["source_id"], unique=False)


def downgrade() -> None:
    """Undo."""
    op.drop_index("ix_influences_source_id", "influences")
    op.drop_table("influences")
    op.drop_index("ix_cubes_namespace_id_infer_scribe", "cubes")
    for table, column in (
        ("vectors", "enriched"),
        ("versions", "changes"),
        ("versions", "importance"),
        ("versions", "entities"),
        ("cubes", "remark"),
        ("cubes", "scribe"),
    ):
        op.drop_column(table, column)
