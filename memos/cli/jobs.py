"""Commands about jobs: ls, show, cancel, retry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from memos.cli import output
from memos.cli.command import command
from memos.cli.session import Session

if TYPE_CHECKING:
    from memos_sdk import Job

jobs = typer.Typer(name="jobs", help="Look after work that goes on after a call.", no_args_is_help=True)

JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]


def jobs_list(
    session: Session,
    *,
    state: Annotated[
        str | None, typer.Option(metavar="STATE", help="queued, running, done, failed or cancelled.")
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", help="How many at most.")] = 100,
) -> None:
    """List a user's jobs, newest first."""
    with session.memory() as memory:
        found = memory.jobs(user_id=session.user, state=state, limit=limit)
    session.show(found, lambda: _listed(found))


def jobs_show(session: Session, job_id: JobId) -> None:
    """Show everything about one job."""
    with session.memory() as memory:
        found = memory.job(job_id)
    session.show(found, lambda: _shown(found))


def jobs_cancel(session: Session, job_id: JobId) -> None:
    """Cancel a job: at once if it waits, soon if it is running."""
    with session.memory() as memory:
        found = memory.cancel(job_id)
    session.show(found, lambda: _shown(found))


def jobs_retry(session: Session, job_id: JobId) -> None:
    """Queue a job again that failed or was cancelled."""
    with session.memory() as memory:
        found = memory.retry(job_id)
    session.show(found, lambda: _shown(found))


def register(app: typer.Typer) -> None:
    """Add these commands."""
    command(jobs, name="ls", whose=("user",))(jobs_list)
    command(jobs, name="show")(jobs_show)
    command(jobs, name="cancel")(jobs_cancel)
    command(jobs, name="retry")(jobs_retry)
    app.add_typer(jobs)


def _listed(found: Sequence[Job]) -> RenderableType:
    made = output.table("job", "since", "task", "state", "", narrow=("job", "since", "task", "state"))
    for job in found:
        made.add_row(job.id, output.when(job.created_at), job.task, _state(job), output.plain(job.error or ""))
    return Group(made, Text(f"{len(found)} jobs", style="dim"))


def _state(job: Job) -> str:
    if job.state == "running":
        return "cancelling" if job.cancelling else f"running, {job.progress:.0%}"
    return job.state


def _shown(job: Job) -> RenderableType:
    waits = job.state == "queued" and job.run_after is not None and job.run_after > job.updated_at
    return output.pairs(
        {
            "id": job.id,
            "user": job.user_id,
            "task": job.task,
            "state": _state(job),
            "attempts": job.attempts,
            "queued": output.when(job.created_at),
            "changed": output.when(job.updated_at),
            "again after": output.when(job.run_after) if waits else None,
            "error": job.error,
            **{name.replace("_", " "): value for name, value in (job.result or {}).items()},
        }
    )
