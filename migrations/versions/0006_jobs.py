"""Jobs: whose turn it is, a wish to cancel one, and how many ended how."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("jobs", sa.Column("tenant", sa.String(length=256), server_default=sa.text("''"), nullable=False))
    op.add_column("jobs", sa.Column("cancelling", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    tenant = "SELECT tenant FROM namespaces WHERE namespaces.id = jobs.namespace_id"
    op.execute(f"UPDATE jobs SET tenant = ({tenant})")
    op.create_index("ix_jobs_namespace_id_state_task", "jobs", ["namespace_id", "state", "task"], unique=False)
    op.create_index(
        "ix_jobs_turns", "jobs", ["state", "tenant", sa.text("priority DESC"), "id", "run_after"], unique=False
    )
    op.drop_index("ix_jobs_state_run_after", "jobs")
    op.create_table(
        "job_totals",
        sa.Column("task", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("task", "state", name=op.f("pk_job_totals")),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("job_totals")
    op.create_index("ix_jobs_state_run_after", "jobs", ["state", "run_after"], unique=False)
    op.drop_index("ix_jobs_turns", "jobs")
    op.drop_index("ix_jobs_namespace_id_state_task", "jobs")
    op.drop_column("jobs", "cancelling")
    op.drop_column("jobs", "tenant")
