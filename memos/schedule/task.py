"""What a job does: a task, the way it reports progress, and how it may be ended while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from memos.cube import Scope

#: Takes the share of the work that is done. Whoever reports may be told to stop: it raises :class:`Halt`.
Report = Callable[[float], None]
#: A task takes the scope, its payload and where to report progress, and returns its result as plain data. It must be
#: safe to run twice: a runner can die after the work and before the record of it.
Task = Callable[[Scope, Mapping[str, Any], Report], dict[str, Any]]


class Halt(BaseException):
    """Ends a task where it reports progress. Not an error, hence the base."""


class Interrupted(Halt):
    """The process stops; the job will be run again, and what helps to go on then may stay."""


class Cancelled(Halt):
    """The job is not wanted any more: nothing of it may stay."""


class Superseded(Halt):
    """The lease of the job ended, and it is another's now."""
