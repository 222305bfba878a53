"""The Model Context Protocol, with its official client: over streamable HTTP, and over stdio with real processes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import httpx2
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # ships no annotations
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from typer.testing import CliRunner

from memos.config import Settings
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos_api.app import create_app
from memos_api.mcp.server import make_server
from memos_api.mcp.stdio import ClientMemories
from memos_api.settings import ServiceSettings
from memos_sdk import AsyncMemory, Memory

T = TypeVar("T")
UNKNOWN = "01900000-0000-7000-8000-000000000000"
READING = {"recall", "get", "list", "links"}
TOOLS = READING | {"store", "update", "forget"}
BOTH_ERAS = pytest.mark.parametrize("mode", ["auto", "legacy"])


@asynccontextmanager
async def connected(url: str, key: str | None, mode: str = "auto") -> AsyncIterator[Client]:
    """Connect as an agent's host does: ``auto`` negotiates the newest protocol, ``legacy`` shakes hands first."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode) as client,
    ):
        yield client


async def answer_of(client: Client, tool: str, **arguments: Any) -> Any:
    """Call a tool that must succeed; both forms of its answer must say the same."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert json.loads(result.content[0].text) == result.structured_content  # type: ignore[union-attr]
    return result.structured_content


async def error_of(client: Client, tool: str, **arguments: Any) -> Any:
    """Call a tool that must fail; return its error."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error, result.structured_content
    assert result.structured_content is None
    text = result.content[0].text  # type: ignore[union-attr]
    assert "Traceback" not in text
    assert 'File "' not in text
    return json.loads(text)


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent with a key, which connects anew for every call."""

    url: str
    key: str | None

    def use(self, work: Callable[[Client], Awaitable[T]], mode: str = "auto") -> T:
        """Connect and do some work."""

        async def live() -> T:
            async with connected(self.url, self.key, mode) as client:
                return await work(client)

        return asyncio.run(live())

    def answer(self, tool: str, **arguments: Any) -> Any:
        """Call a tool that must succeed."""
        return self.use(lambda client: answer_of(client, tool, **arguments))

    def error(self, tool: str, **arguments: Any) -> Any:
        """Call a tool that must fail."""
        return self.use(lambda client: error_of(client, tool, **arguments))


@pytest.fixture
def agent_of(running: Any) -> Callable[..., Agent]:
    """Make an agent: of a new tenant, of a named one, with some scopes."""
    return lambda tenant=None, **options: Agent(f"{running.url}/mcp", running.key(tenant, **options))


@pytest.fixture
def agent(agent_of: Callable[..., Agent]) -> Agent:
    """An agent of a tenant that nobody else has."""
    return agent_of()


@pytest.fixture
def own(tmp_path: Path, embedder: Embedder, serve: Callable[..., Any]) -> Callable[..., Any]:
    """Run a service with a store of its own, and so without a key."""
    return lambda **settings: serve(lambda: MemoryOS(Settings(home=tmp_path / "own"), embedder), **settings)


def post(url: str, method: str = "tools/list", **headers: str) -> httpx.Response:
    """Send one bare request."""
    accepted = {"Accept": "application/json, text/event-stream", **headers}
    return httpx.post(url, json={"jsonrpc": "2.0", "id": 1, "method": method}, headers=accepted)


# ------------------------------------------------------------ the tools


@BOTH_ERAS
def test_every_tool(agent: Agent, mode: str) -> None:
    async def work(client: Client) -> None:
        made = await answer_of(client, "store", text="Ann has a cat", metadata={"topic": "pets"}, run_id="s1")
        assert (made["text"], made["version"], made["metadata"]) == ("Ann has a cat", 1, {"topic": "pets"})
        other = await answer_of(client, "store", text="Ann lives in Rome", event_time="2026-01-02T03:04:05Z")
        found = await answer_of(client, "recall", query="which cat has Ann?", top_k=1)
        assert [(hit["id"], hit["text"]) for hit in found["hits"]] == [(made["id"], "Ann has a cat")]
        filtered = await answer_of(client, "recall", query="Ann", filters={"metadata.topic": {"$ne": "pets"}})
        assert [(hit["id"], hit["event_time"]) for hit in filtered["hits"]] == [(other["id"], "2026-01-02T03:04:05Z")]
        changed = await answer_of(client, "update", id=made["id"], text="Ann has two cats", expected_version=1)
        assert await answer_of(client, "get", id=made["id"]) == changed
        assert (changed["version"], changed["metadata"]) == (2, {"topic": "pets"})
        assert await answer_of(client, "links", id=made["id"]) == {"links": []}
        page = await answer_of(client, "list", limit=1)
        assert ([memory["id"] for memory in page["memories"]], page["next"]) == ([made["id"]], made["id"])
        rest = await answer_of(client, "list", after=page["next"])
        assert ([memory["id"] for memory in rest["memories"]], "next" in rest) == ([other["id"]], False)
        assert (await answer_of(client, "list", run_id="s1"))["memories"] == page["memories"]
        receipt = await answer_of(client, "forget", id=made["id"])
        assert (receipt["cube_ids"], receipt["removed"]["cubes"]) == ([made["id"]], 1)
        assert (await error_of(client, "get", id=made["id"]))["code"] == "not-found"

    agent.use(work, mode)


@BOTH_ERAS
def test_tools_are_described(agent: Agent, mode: str) -> None:
    async def work(client: Client) -> None:
        assert client.server_info is not None
        assert client.server_info.name == "agent-memos"
        assert "Recall before" in (client.instructions or "")
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert tools.keys() == TOOLS
        for name, tool in tools.items():
            schemas = (tool.input_schema, tool.output_schema)
            for schema in schemas:
                Draft202012Validator.check_schema(schema)
            assert tool.description
            assert all(each["description"] for each in tool.input_schema["properties"].values())
            assert not any(word in json.dumps(schemas) for word in ("anyOf", "null", "title"))
            assert tool.annotations is not None
            assert tool.annotations.read_only_hint == (name in READING)
            assert tool.annotations.destructive_hint == (name == "forget")
        assert tools["recall"].input_schema["required"] == ["query"]
        assert tools["recall"].input_schema["properties"]["top_k"]["default"] == 10

    agent.use(work, mode)


def test_links_are_seen_from_the_memory(own: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMOS_NOTES", "offline")
    with own() as service, Memory(service.url) as memory:
        agent = Agent(f"{service.url}/mcp", None)
        old = agent.answer("store", text="Ann lives in Rome", event_time="2024-01-01T00:00:00Z")
        new = agent.answer("store", text="Ann moved to Oslo", event_time="2025-01-01T00:00:00Z")
        memory.wait(memory.refine())  # notes, and with them links, are written after the answer
        (link,) = agent.answer("links", id=old["id"])["links"]
        assert (link["target_id"], link["type"], link["reversed"]) == (new["id"], "contradicts", True)
        assert agent.answer("get", id=old["id"])["keywords"]


def test_arguments_that_are_null_are_left_out(agent: Agent) -> None:
    made = agent.answer("store", text="x", metadata=None, infer=None, user_id=None)
    assert made["user_id"] == "default"
    assert len(agent.answer("recall", query="x", top_k=None, filters=None)["hits"]) == 1


def test_repeated_call_with_a_key_stores_once(agent: Agent) -> None:
    first, second = (agent.answer("store", text="x", idempotency_key="k") for _ in range(2))
    assert first["id"] == second["id"]
    assert agent.error("store", text="y", idempotency_key="k")["code"] == "idempotency-conflict"


def test_users_of_a_tenant(agent: Agent) -> None:
    made = agent.answer("store", text="x", user_id="ann")
    assert agent.answer("list")["memories"] == agent.answer("list", user_id="bob")["memories"] == []
    assert agent.answer("get", id=made["id"], user_id="ann") == made
    assert agent.error("get", id=made["id"], user_id="bob")["code"] == "not-found"


# ------------------------------------------------------------ what goes wrong


@pytest.mark.parametrize(
    ("tool", "arguments", "code", "message"),
    [
        ("store", {}, "invalid-input", "text is needed"),
        ("store", {"text": "x", "colour": 1}, "invalid-input", "unknown argument 'colour'"),
        ("store", {"text": ""}, "invalid-text", "text"),
        ("store", {"text": 5}, "invalid-text", "text"),
        ("store", {"text": "x", "event_time": "soon"}, "invalid-input", "event_time"),
        ("store", {"text": "x", "metadata": "y"}, "invalid-input", "metadata"),
        ("store", {"text": "x", "user_id": " "}, "invalid-input", "user_id"),
        ("recall", {"query": "x", "filters": {"metadata.a": {"$like": 1}}}, "invalid-filter", "$like"),
        ("recall", {"query": "x", "top_k": 0}, "invalid-input", "top_k"),
        ("list", {"limit": "many"}, "invalid-input", "limit"),
        ("list", {"after": "x"}, "invalid-input", "after"),
        ("get", {"id": "x"}, "not-found", "'x'"),
        ("get", {"id": ["x"]}, "not-found", "x"),
        ("update", {"id": UNKNOWN, "text": "x"}, "not-found", UNKNOWN),
        ("forget", {"id": UNKNOWN}, "not-found", UNKNOWN),
        ("links", {"id": UNKNOWN}, "not-found", UNKNOWN),
    ],
)
def test_errors(agent: Agent, tool: str, arguments: dict[str, Any], code: str, message: str) -> None:
    told = agent.error(tool, **arguments)
    assert told["code"] == code
    assert message in told["message"]


def test_stale_version_says_the_current_one(agent: Agent) -> None:
    made = agent.answer("store", text="x")
    agent.answer("update", id=made["id"], text="y")
    told = agent.error("update", id=made["id"], text="z", expected_version=1)
    assert (told["code"], told["current_version"]) == ("version-conflict", 2)


@BOTH_ERAS
def test_unknown_tool_is_an_error_of_the_protocol(agent: Agent, mode: str) -> None:
    async def work(client: Client) -> None:
        with pytest.raises(MCPError, match="Unknown tool: remember"):
            await client.call_tool("remember", {})

    agent.use(work, mode)


def test_names_that_are_no_text(agent: Agent) -> None:
    """Only JSON that escapes it can hold a lone surrogate; the official client cannot send one."""
    version = "2026-07-28"
    about = {
        "io.modelcontextprotocol/protocolVersion": version,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    headers = {
        "Accept": "application/json, text/event-stream",
        "Authorization": f"Bearer {agent.key}",
        "Content-Type": "application/json",
        "MCP-Protocol-Version": version,
        "Mcp-Method": "tools/call",
        "Mcp-Name": "get",
    }
    for arguments in ({"\ud800": 1}, {"id": "\ud800"}, {"id": UNKNOWN, "user_id": "\ud800"}):
        params = {"name": "get", "arguments": arguments, "_meta": about}
        request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        answer = httpx.post(agent.url, content=json.dumps(request), headers=headers)
        assert answer.json()["result"]["isError"], answer.text


def test_too_little_room_is_a_tool_error(own: Callable[..., Any]) -> None:
    with own(rate=0.001, burst=2) as service:
        agent = Agent(f"{service.url}/mcp", service.key())
        agent.answer("list")
        agent.answer("list")
        told = agent.error("list")
        assert told["code"] == "limit-reached"
        assert told["retry_after_s"] > 0


# ------------------------------------------------------------ whose memories


def test_tenants_never_see_each_other(agent_of: Callable[..., Agent]) -> None:
    victim, thief = agent_of(), agent_of()
    made = victim.answer("store", text="the canary sings", user_id="ann", run_id="s1")
    thief.answer("store", text="nothing of interest", user_id="ann", run_id="s1")
    for whose in ({}, {"user_id": "ann"}, {"user_id": "ann", "run_id": "s1"}):
        said = [thief.answer("recall", query="the canary sings", top_k=100, **whose), thief.answer("list", **whose)]
        assert "canary" not in json.dumps(said)
        assert made["id"] not in json.dumps(said)
    for tool, more in (("get", {}), ("links", {}), ("update", {"text": "gone"}), ("forget", {})):
        for whose in ({}, {"user_id": "ann"}):
            told = [thief.error(tool, id=one, **more, **whose) for one in (made["id"], UNKNOWN)]
            assert told[0]["code"] == "not-found"
            assert told[0]["message"].replace(made["id"], UNKNOWN) == told[1]["message"]
    assert thief.error("list", after="x")["code"] == "invalid-input"
    assert victim.answer("get", id=made["id"]) == made


def test_tenant_cannot_be_asked_for(agent: Agent) -> None:
    assert agent.error("list", tenant="default")["code"] == "invalid-input"


@BOTH_ERAS
def test_revoked_key_fails_at_once(running: Any, agent: Agent, mode: str) -> None:
    async def work(client: Client) -> None:
        await answer_of(client, "list")
        assert agent.key is not None
        await asyncio.to_thread(running.service.access.revoke, agent.key.split("_")[1])
        with pytest.raises(MCPError, match="unknown, revoked or past its end"):
            await client.call_tool("list", {})

    agent.use(work, mode)


@BOTH_ERAS
@pytest.mark.parametrize("key", [None, "memos_0123456789abcdef_" + "x" * 43, "nonsense"])
def test_without_a_good_key_nobody_connects(running: Any, mode: str, key: str | None) -> None:
    agent = Agent(f"{running.url}/mcp", key)
    with pytest.raises(ExceptionGroup) as raised:
        agent.use(lambda client: client.list_tools(), mode)
    assert raised.group_contains(MCPError, match="API key")


def test_key_for_reading_cannot_write(agent_of: Callable[..., Agent]) -> None:
    made = agent_of("readers").answer("store", text="x")
    reader = agent_of("readers", scopes=["read"])
    for tool, arguments in (
        ("store", {"text": "y"}),
        ("update", {"id": made["id"], "text": "y"}),
        ("forget", {"id": made["id"]}),
    ):
        told = reader.error(tool, **arguments)
        assert (told["code"], told["message"]) == ("forbidden", "this API key has no 'write' scope")
    assert reader.answer("list")["memories"] == [reader.answer("get", id=made["id"])] == [made]
    assert [hit["id"] for hit in reader.answer("recall", query="x")["hits"]] == [made["id"]]
    assert reader.answer("links", id=made["id"]) == {"links": []}


def test_key_for_writing_cannot_read(agent_of: Callable[..., Agent]) -> None:
    writer = agent_of(scopes=["write"])
    writer.answer("store", text="x")
    assert writer.error("recall", query="x")["code"] == "forbidden"


def test_without_any_key_this_machine_alone_is_served(own: Callable[..., Any]) -> None:
    with own() as service:
        url = f"{service.url}/mcp"
        assert Agent(url, None).answer("store", text="x")["user_id"] == "default"
        assert [post(url, Origin=site).status_code for site in ("http://localhost:3000", service.url)] == [200, 200]
        for site in ("https://evil.example", "null", "http://[", "http://127.0.0.1.evil.example"):
            assert post(url, Origin=site).status_code == 403, site
        rebound = post(url, Host="evil.example", Origin="http://evil.example")
        assert rebound.status_code == 403
        assert post(url, Host="evil.example").status_code == 401
        key = service.key()
        assert post(url).status_code == 401
        proxied = {"Host": "memory.example", "Origin": "https://app.example", "Authorization": f"Bearer {key}"}
        assert post(url, **proxied).status_code == 200


# ------------------------------------------------------------ HTTP


def test_both_spellings_of_the_path(agent: Agent) -> None:
    for path in (agent.url, f"{agent.url}/"):
        answer = post(path, Authorization=f"Bearer {agent.key}")
        assert (answer.status_code, answer.history) == (200, []), path
        assert answer.headers["Content-Type"] == "application/json"
        assert "mcp-session-id" not in answer.headers
        assert Agent(path, agent.key).answer("list") == {"memories": []}


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "OPTIONS"])
def test_nothing_but_post(agent: Agent, method: str) -> None:
    answer = httpx.request(method, agent.url, headers={"Accept": "text/event-stream"})
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")


def test_refusal_is_an_error_of_json_rpc(agent: Agent) -> None:
    answer = post(agent.url)
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    error = answer.json()["error"]
    assert (error["data"]["code"], error["data"]["detail"]) == ("unauthenticated", error["message"])


def test_bodies_that_cannot_be_used(agent: Agent, own: Callable[..., Any]) -> None:
    headers = {"Authorization": f"Bearer {agent.key}", "Accept": "application/json", "Content-Type": "application/json"}
    for content in (b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'"x"'):
        assert httpx.post(agent.url, content=content, headers=headers).status_code == 400
    plain = {**headers, "Content-Type": "text/plain"}
    assert httpx.post(agent.url, content=b"{}", headers=plain).status_code == 400
    with own(max_body_bytes=1_000) as service:
        answer = httpx.post(f"{service.url}/mcp", content=b" " * 2_000, headers=headers)
        assert answer.status_code == 413


def test_requests_are_counted(running: Any, agent: Agent) -> None:
    def stored() -> float:
        return float(running.service.metrics.stored._value.get())

    before = stored()
    agent.answer("store", text="x")
    assert stored() >= before + 1
    assert 'route="/mcp"' in httpx.get(f"{running.url}/metrics").text


def test_services_of_one_process_and_their_restart(tmp_path: Path, embedder: Embedder) -> None:
    def app_in(name: str) -> Any:
        return create_app(
            ServiceSettings(log_level="error"),
            lambda: MemoryOS(Settings(home=tmp_path / name), embedder),
        )

    @asynccontextmanager
    async def asking(app: Any) -> AsyncIterator[httpx.AsyncClient]:
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8000") as http,
        ):
            yield http

    async def live() -> None:
        apps = app_in("a"), app_in("b")
        request = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        for _ in range(2):
            async with asking(apps[0]) as one, asking(apps[1]) as other:
                for http in (one, other):
                    answer = await http.post("/mcp", json=request, headers={"Accept": "application/json"})
                    assert len(answer.json()["result"]["tools"]) == len(TOOLS)

    asyncio.run(live())


# ------------------------------------------------------------ stdio


@asynccontextmanager
async def started(log: Path, *arguments: str, env: dict[str, str] | None = None) -> AsyncIterator[Client]:
    """Start ``memos`` as an agent's host does, and keep a copy of what it writes to stdout."""
    command = str(Path(sys.executable).with_name("memos"))
    script = 'log=$1; shift; "$@" | tee "$log"'
    server = StdioServerParameters(
        command="bash",
        args=["-c", script, "bash", str(log), command, *arguments],
        env={"HF_HUB_OFFLINE": "1", "MEMOS_NOTES": "off", **(env or {})},
    )
    async with Client(server, read_timeout_seconds=100) as client:
        yield client


def spoken(log: Path) -> list[Any]:
    """Return what a process wrote to stdout, which must be messages of the protocol alone."""
    messages = [json.loads(line) for line in log.read_text().splitlines()]
    assert all(message["jsonrpc"] == "2.0" for message in messages)
    return messages


@asynccontextmanager
async def remembering(memory: AsyncMemory, user: str | None = None) -> AsyncIterator[Client]:
    """Connect, in this process, to what ``memos mcp`` serves over stdio."""
    async with memory, Client(make_server(lambda _: ClientMemories(memory), user)) as client:
        yield client


@pytest.mark.soak
@pytest.mark.timeout(300)  # loads the bundled model
def test_stdio_with_an_embedded_store(tmp_path: Path) -> None:
    async def live() -> str:
        async with started(tmp_path / "log", "--home", str(tmp_path / "store"), "mcp") as client:
            made = await answer_of(client, "store", text="I adopted a cat", user_id="ann")
            await answer_of(client, "store", text="The train leaves at nine", user_id="ann")
            found = await answer_of(client, "recall", query="Which pet do I have?", top_k=1, user_id="ann")
            assert [hit["id"] for hit in found["hits"]] == [made["id"]]
            assert (await error_of(client, "get", id="x"))["code"] == "not-found"
            return str(made["id"])

    stored = asyncio.run(live())
    assert len(spoken(tmp_path / "log")) >= 5
    with Memory(path=tmp_path / "store") as memory:
        assert memory.get(stored).text == "I adopted a cat"


def test_stdio_with_a_server(running: Any, tmp_path: Path) -> None:
    key = running.key("stdio")
    options = ("mcp", "--url", running.url, "--user", "ann")

    async def live() -> None:
        async with started(tmp_path / "log", *options, env={"MEMOS_API_KEY": key}) as client:
            tools = (await client.list_tools()).tools
            assert not any("user_id" in tool.input_schema["properties"] for tool in tools)
            made = await answer_of(client, "store", text="Ann has a cat", metadata={"topic": "pets"})
            assert made["user_id"] == "ann"
            assert [hit["id"] for hit in (await answer_of(client, "recall", query="cat"))["hits"]] == [made["id"]]
            changed = await answer_of(client, "update", id=made["id"], text="Ann has two cats", expected_version=1)
            assert (await answer_of(client, "list"))["memories"] == [changed]
            assert (await error_of(client, "update", id=made["id"], text="x", expected_version=1)) == {
                "code": "version-conflict",
                "message": (await error_of(client, "update", id=made["id"], text="x", expected_version=1))["message"],
                "current_version": 2,
            }
            await asyncio.to_thread(running.service.access.revoke, key.split("_")[1])
            assert (await error_of(client, "list"))["code"] == "unauthenticated"

    asyncio.run(live())
    spoken(tmp_path / "log")
    with Memory(running.url, api_key=running.key("stdio")) as memory:
        assert [cube.text for cube in memory.list(user_id="ann")] == ["Ann has two cats"]


def test_server_for_one_user_alone(data_folder: Path, embedder: Embedder) -> None:
    async def live() -> None:
        memory = AsyncMemory(path=data_folder, embedder=embedder)
        async with remembering(memory, "ann") as client:
            bobs = await memory.store("Bob has a dog", user_id="bob")
            made = await answer_of(client, "store", text="Ann has a cat")
            assert made["user_id"] == "ann"
            assert [one["id"] for one in (await answer_of(client, "list", user_id=None))["memories"]] == [made["id"]]
            for tool in ("get", "links", "forget"):
                assert (await error_of(client, tool, id=bobs.id))["code"] == "not-found"
            assert (await error_of(client, "update", id=bobs.id, text="x"))["code"] == "not-found"
            assert "one user alone" in (await error_of(client, "list", user_id="bob"))["message"]
            assert (await answer_of(client, "forget", id=made["id"]))["cube_ids"] == [made["id"]]

    asyncio.run(live())


def test_both_transports_answer_alike(data_folder: Path, embedder: Embedder, own: Callable[..., Any]) -> None:
    """The client leaves out what it does not know: nothing that a tool answers may be among it."""

    async def work(client: Client) -> list[Any]:
        made = await answer_of(client, "store", text="Ann has a cat", metadata={"a": [1, None]}, agent_id="x")
        calls = {"get": {"id": made["id"]}, "recall": {"query": "cat"}, "list": {}, "links": {"id": made["id"]}}
        said = [made, *[await answer_of(client, tool, **arguments) for tool, arguments in calls.items()]]
        said.append(await answer_of(client, "forget", id=made["id"]))
        return [shape(each) for each in said]

    def shape(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: shape(each) for name, each in value.items()}
        return [shape(each) for each in value] if isinstance(value, list) else type(value)

    async def embedded() -> list[Any]:
        async with remembering(AsyncMemory(path=data_folder, embedder=embedder)) as client:
            return await work(client)

    with own() as service:
        assert Agent(f"{service.url}/mcp", None).use(work) == asyncio.run(embedded())


def test_server_that_cannot_be_reached_is_a_tool_error() -> None:
    async def live() -> None:
        async with remembering(AsyncMemory("http://127.0.0.1:9", timeout=1)) as client:
            assert (await error_of(client, "list"))["code"] == "unreachable"

    asyncio.run(live())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--url", "nonsense"], "no URL of a server"),
        (["--api-key", "memos_x"], "belongs to the url of a server"),
        (["--url", "http://localhost", "--home", "x"], "not both"),
        (["--user", " "], "user must not be empty"),
    ],
)
def test_options_that_contradict(options: list[str], message: str) -> None:
    from memos.cli.app import app

    done = CliRunner().invoke(app, ["mcp", *options])
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr


def test_store_in_use_is_a_tool_error(data_folder: Path, embedder: Embedder) -> None:
    async def live() -> None:
        async with remembering(AsyncMemory(path=data_folder, embedder=embedder)) as client:
            assert (await error_of(client, "list"))["code"] == "store-in-use"

    with Memory(path=data_folder, embedder=embedder):
        asyncio.run(live())
