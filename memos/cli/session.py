"""One command's surroundings: whose memory, in which store, and where the output goes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType

if TYPE_CHECKING:
    from memos.config import Settings
    from memos.cube import Scope
    from memos.engine import MemoryOS
    from memos_sdk import Memory

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What the options common to many commands say. ``embedder`` and ``models`` are for callers in this process."""

    home: Path | None = None
    user: str | None = None
    agent: str | None = None
    run: str | None = None
    json: bool = False
    embedder: Any = None
    models: Any = None

    @property
    def out(self) -> Console:
        """Where results go."""
        return Console(highlight=False)

    @property
    def err(self) -> Console:
        """Where everything else goes."""
        return Console(stderr=True, highlight=False)

    @property
    def whose(self) -> dict[str, Any]:
        """User, agent and run as the SDK takes them."""
        return {"user_id": self.user, "agent_id": self.agent, "run_id": self.run}

    @property
    def scope(self) -> Scope:
        """User, agent and run as the engine takes them."""
        from memos.cube import DEFAULT_USER, Scope

        user = DEFAULT_USER if self.user is None else self.user
        return Scope(user_id=user, agent_id=self.agent, run_id=self.run)

    def show(self, data: Any, human: Callable[[], RenderableType]) -> None:
        """Print a result: ``data`` (models, or anything JSON) under ``--json``, else what ``human`` returns."""
        if self.json:
            print_json(data)
        else:
            self.out.print(human(), soft_wrap=False)

    @contextmanager
    def memory(self) -> Iterator[Memory]:
        """Open the store as an agent does; a model may be loading meanwhile."""
        with self._waiting():
            from memos_sdk import Memory

            memory = Memory(path=self.home, embedder=self.embedder)
        with memory, self._waiting():
            yield memory

    @contextmanager
    def engine(self) -> Iterator[MemoryOS]:
        """Open the engine, for what reports progress."""
        with self._waiting():
            from memos.engine import MemoryOS

            engine = MemoryOS(self.settings(), self.embedder, self.models)
        with engine:
            yield engine

    def settings(self) -> Settings:
        """Read the settings. Raises :class:`memos.errors.InvalidInput` naming a variable that cannot be used."""
        from pydantic import ValidationError

        from memos.config import Settings
        from memos.errors import InvalidInput

        try:
            return Settings() if self.home is None else Settings(home=self.home)
        except ValidationError as error:
            wrong = error.errors(include_input=False)[0]
            name = f"MEMOS_{str(wrong['loc'][0]).upper()}"
            raise InvalidInput(f"a setting cannot be used: {name}: {wrong['msg']}") from error

    @contextmanager
    def progress(self, task: str) -> Iterator[Progress]:
        """Show a bar on a terminal; yield the function to report to."""
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        hidden = self.json or not self.err.is_terminal
        with Bars(*columns, TimeRemainingColumn(), console=self.err, transient=True, disable=hidden) as bars:
            bar = bars.add_task(task, total=None)
            yield lambda done, total: bars.update(bar, completed=done, total=total)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        if self.json or not self.err.is_terminal:
            yield
            return
        with self.err.status("working ..."):
            yield


def print_json(data: Any, *, stderr: bool = False) -> None:
    """Print models, sequences of models or plain data as JSON."""
    stream = sys.stderr if stderr else sys.stdout
    plain = (stream.encoding or "").lower().replace("-", "") != "utf8"
    text = json.dumps(_jsonable(data), ensure_ascii=plain, indent=2, default=str)
    stream.write(text + "\n")


def _jsonable(data: Any) -> Any:
    if hasattr(data, "model_dump"):
        return data.model_dump(mode="json")
    return [_jsonable(item) for item in data] if isinstance(data, list | tuple) else data
