"""A service in a process of its own, for checks over HTTP: prints its URL and an API key as JSON, then serves."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import uvicorn

from memos.config import Settings
from memos.engine import MemoryOS
from memos_api.app import create_app
from memos_api.settings import ServiceSettings


def hash_embedder() -> Any:
    """Return the embedder that all tests use, which needs no model."""
    path = Path(__file__).parent.parent / "conftest.py"
    spec = importlib.util.spec_from_file_location("tests_conftest", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.HashEmbedder()


async def serve(home: Path) -> None:
    """Serve a store until the process is told to end."""
    app = create_app(ServiceSettings(log_level="error"), lambda: MemoryOS(Settings(home=home), hash_embedder()))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
    serving = asyncio.create_task(server.serve())
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if server.started:
        port = server.servers[0].sockets[0].getsockname()[1]
        key = app.state.service.access.create("frameworks", ["read", "write"]).key
        sys.stdout.write(json.dumps({"url": f"http://127.0.0.1:{port}", "api_key": key}) + "\n")
        sys.stdout.flush()
    await serving


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
