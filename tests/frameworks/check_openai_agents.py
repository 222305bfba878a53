"""``MemosSession`` under the Agents SDK's own runner, with a model that plays back what a check prepared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

import pytest
from agents import Agent, RunConfig, Runner, Session, SessionSettings, function_tool, set_tracing_disabled
from agents.items import ModelResponse
from agents.models.interface import Model
from agents.usage import Usage
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

from memos_sdk import Memory
from memos_sdk.integrations.openai_agents import MemosSession

T = TypeVar("T")
ITEMS: list[Any] = [
    {"role": "user", "content": "Weather in Oslo?"},
    {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA==", "content": None},
    {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Oslo"}', "id": "fc_1"},
    {"type": "function_call_output", "call_id": "c1", "output": "-3.5 \0 \ud83d"},
    {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "x" * 300_000}]},
    {
        "type": "message",
        "role": "assistant",
        "id": "msg_1",
        "status": "completed",
        "content": [{"type": "output_text", "text": "Cold ☕", "annotations": [], "logprobs": []}],
    },
    {"role": "user", "content": [{"type": "input_image", "detail": "auto", "image_url": "data:,x"}]},
    {"role": "user", "content": ""},
]


class Scripted(Model):
    """A model that answers with prepared outputs and keeps what it was asked."""

    def __init__(self, *outputs: Any) -> None:
        self.outputs = list(outputs)
        self.asked: list[list[Any]] = []

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        """Return the next output."""
        asked = kwargs["input"] if "input" in kwargs else args[1]
        self.asked.append([asked] if isinstance(asked, str) else list(asked))
        return ModelResponse(output=[self.outputs.pop(0)], usage=Usage(), response_id=None)

    def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """Refuse: no check streams."""
        raise NotImplementedError


def says(text: str) -> ResponseOutputMessage:
    part = ResponseOutputText(type="output_text", text=text, annotations=[])
    return ResponseOutputMessage(id="msg", type="message", role="assistant", status="completed", content=[part])


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


@pytest.fixture(autouse=True)
def no_tracing() -> None:
    set_tracing_disabled(True)


@pytest.fixture
def session(memory: Memory, user: str) -> MemosSession:
    return MemosSession(memory, "s1", user_id=user)


def test_session_follows_the_protocol(session: MemosSession) -> None:
    assert isinstance(session, Session)
    assert (session.session_id, session.session_settings) == ("s1", None)


def test_items_come_back_as_they_were(session: MemosSession) -> None:
    async def work() -> list[Any]:
        await session.add_items(ITEMS[:3])
        await session.add_items([])
        await session.add_items(ITEMS[3:])
        return list(await session.get_items())

    assert run(work()) == ITEMS


def test_limit_takes_the_latest_items(memory: Memory, session: MemosSession, user: str) -> None:
    run(session.add_items(ITEMS))
    assert run(session.get_items(3)) == ITEMS[-3:]
    assert run(session.get_items(limit=0)) == []
    assert run(session.get_items(limit=99)) == ITEMS
    limited = MemosSession(memory, "s1", user_id=user, session_settings=SessionSettings(limit=2))
    assert run(limited.get_items()) == ITEMS[-2:]
    assert run(limited.get_items(4)) == ITEMS[-4:]


def test_pop_takes_the_latest_item(session: MemosSession) -> None:
    async def work() -> None:
        await session.add_items(ITEMS[:3])
        assert [await session.pop_item() for _ in range(4)] == [*ITEMS[2::-1], None]
        await session.add_items(ITEMS[:1])
        assert await session.get_items() == ITEMS[:1]

    run(work())


def test_pops_at_once_take_different_items(session: MemosSession) -> None:
    async def work() -> list[Any]:
        await session.add_items([{"role": "user", "content": str(number)} for number in range(8)])
        return list(await asyncio.gather(*(session.pop_item() for _ in range(10))))

    popped = run(work())
    assert popped.count(None) == 2
    assert {item["content"] for item in popped if item} == set("01234567")


def test_repeats_are_kept_when_notes_are_written(memory: Memory, session: MemosSession, user: str) -> None:
    same = [{"role": "user", "content": "Yes, please book the flight to Oslo"}] * 5
    run(session.add_items(same))
    memory.wait(memory.refine(user_id=user))
    assert run(session.get_items()) == same


def test_clear_deletes_the_session_alone(memory: Memory, session: MemosSession, user: str) -> None:
    other = MemosSession(memory, "s2", user_id=user)
    run(session.add_items(ITEMS))
    run(other.add_items(ITEMS[:1]))
    run(session.clear_session())
    run(session.clear_session())
    assert run(session.get_items()) == []
    assert run(other.get_items()) == ITEMS[:1]
    assert len(memory.list(user_id=user)) == 1


def test_what_was_said_is_recalled(memory: Memory, session: MemosSession, user: str) -> None:
    run(session.add_items([{"role": "user", "content": "My cat is called Tom"}, *ITEMS[1:4]]))
    best = memory.recall("name of the cat", user_id=user).hits[0]
    assert (best.text, best.run_id, best.metadata["role"]) == ("My cat is called Tom", "s1", "user")


def test_runner_carries_a_conversation_on(memory: Memory, session: MemosSession, user: str) -> None:
    model = Scripted(says("Noted."), says("Tom."))
    agent = Agent(name="assistant", model=model)
    run(Runner.run(agent, "My cat is called Tom", session=session))
    again = MemosSession(memory, "s1", user_id=user)
    result = run(Runner.run(agent, "What is my cat called?", session=again))
    assert result.final_output == "Tom."
    assert [item["role"] for item in model.asked[1]] == ["user", "assistant", "user"]
    assert len(run(again.get_items())) == 4


def test_runner_keeps_tool_calls(session: MemosSession) -> None:
    def weather(city: str) -> str:
        """Return the weather."""
        return f"cold in {city}"

    call = ResponseFunctionToolCall(type="function_call", call_id="c1", name="weather", arguments='{"city": "Oslo"}')
    model = Scripted(call, says("Cold."), says("Still cold."))
    agent = Agent(name="assistant", model=model, tools=[function_tool(weather)])
    run(Runner.run(agent, "Weather?", session=session))
    run(Runner.run(agent, "And now?", session=session))
    kinds = [item.get("type", "message") for item in model.asked[2]]
    assert kinds == ["message", "function_call", "function_call_output", "message", "message"]
    assert model.asked[2][2]["output"] == "cold in Oslo"


def test_runner_limits_history(session: MemosSession) -> None:
    run(session.add_items([{"role": "user", "content": f"old {number}"} for number in range(5)]))
    model = Scripted(says("Yes."))
    config = RunConfig(session_settings=SessionSettings(limit=2))
    run(Runner.run(Agent(name="assistant", model=model), "new", session=session, run_config=config))
    assert [item["content"] for item in model.asked[0]] == ["old 3", "old 4", "new"]


def test_documented_example_runs(memory: Memory, example: str) -> None:
    scope: dict[str, Any] = {"memory": memory, "agent": Agent(name="assistant", model=Scripted(says("Noted.")))}
    exec(example, scope)
    assert [item["role"] for item in run(scope["session"].get_items())] == ["user", "assistant"]
    memory.forget_all(user_id="ann")
