"""What the checks share: a memory, embedded and over HTTP, and a user of their own. ``run.py`` runs them."""

from __future__ import annotations

import json
import os
import re
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from memos_sdk import Memory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memos.embedding.base import Embedder


@pytest.fixture(params=["embedded", "http"])
def memory(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    data_folder: Path,
    embedder: Embedder,
    server: dict[str, Any],
) -> Iterator[Memory]:
    """A memory that writes notes, as a user has it who sets nothing."""
    monkeypatch.delenv("MEMOS_NOTES")
    with Memory(**server) if request.param == "http" else Memory(path=data_folder, embedder=embedder) as opened:
        yield opened


@pytest.fixture(scope="session")
def server() -> dict[str, Any]:
    """URL and key of the server that ``run.py`` started."""
    given: dict[str, Any] = json.loads(os.environ["FRAMEWORKS_SERVER"])
    return given


@pytest.fixture
def user() -> str:
    """A user whom no other check knows."""
    return f"user-{uuid.uuid4()}"


@pytest.fixture
def example(request: pytest.FixtureRequest) -> str:
    """The documented example of the adapter that a check is about."""
    adapter = request.path.stem.removeprefix("check_")
    text = (request.config.rootpath / "docs" / "integrations.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (found,) = (block for block in blocks if f"memos_sdk.integrations.{adapter} import" in block)
    return str(found)
