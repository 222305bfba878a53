"""The four ways in that README shows are gone, one after another, against the real command."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.timeout(300)  # loads the bundled models
README = (Path(__file__).resolve().parent.parent / "README.md").read_text()
ADDRESS = "http://127.0.0.1:8000"
MEMOS = Path(sys.executable).with_name("memos")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`memos serve` as a process; its address."""
    home = tmp_path_factory.mktemp("served")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (home / "log").open("wb") as log:
        command = [str(MEMOS), "serve", "--home", str(home), "--port", str(port)]
        process = subprocess.Popen(command, stderr=log, stdout=log)
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(600):
                assert process.poll() is None, (home / "log").read_text()
                with contextlib.suppress(httpx.HTTPError):
                    if httpx.get(f"{url}/readyz").status_code == 200:
                        break
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            assert process.wait(30) == 0, (home / "log").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_four_blocks_run(served: str) -> None:
    (curl,) = blocks("bash")
    told = subprocess.run(["bash", "-euc", curl.replace(ADDRESS, served)], capture_output=True, text=True, check=True)
    assert "Ann lives in Oslo" in told.stdout
    client, openai = blocks("py")
    assert "Oslo" in printed(client, served)
    assert printed(openai, served)
    (config,) = blocks("json")
    asyncio.run(mcp(json.loads(config.replace(ADDRESS, served))["mcpServers"]["memory"]))


def printed(code: str, served: str) -> str:
    run = [sys.executable, "-c", code.replace(ADDRESS, served)]
    return subprocess.run(run, capture_output=True, text=True, check=True).stdout


async def mcp(server: dict[str, Any]) -> None:
    """Start the server of a configuration as an agent does, and ask it."""
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    assert server["command"] == "memos"
    parameters = StdioServerParameters(command=str(MEMOS), args=list(server["args"]))
    async with stdio_client(parameters) as streams, ClientSession(*streams) as session:
        await session.initialize()
        answer = await session.call_tool("recall", {"query": "Where does Ann live?"})
        assert "Oslo" in str(answer.content)
