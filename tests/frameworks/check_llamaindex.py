"""``MemosMemory`` and ``MemosMemoryBlock`` in LlamaIndex's chat engine, agent and ``Memory``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock, ToolCallBlock
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.memory import BaseMemory
from llama_index.core.memory import Memory as LlamaMemory

from memos_sdk import Memory
from memos_sdk.integrations.llamaindex import MemosMemory, MemosMemoryBlock

MESSAGES = [
    ChatMessage(role="system", content="Be brief."),
    ChatMessage(role="user", content="Weather in Oslo? ☕", additional_kwargs={"n": [1, None]}),
    ChatMessage(
        role="assistant",
        blocks=[ToolCallBlock(tool_call_id="c1", tool_name="weather", tool_kwargs={"city": "Oslo"})],
    ),
    ChatMessage(role="tool", content="-3.5 \0 \ud83d", additional_kwargs={"tool_call_id": "c1"}),
    ChatMessage(role="assistant", blocks=[TextBlock(text="Cold,"), TextBlock(text="very cold.")]),
    ChatMessage(role="user", blocks=[TextBlock(text="this?"), ImageBlock(url="http://127.0.0.1/x.png")]),
    ChatMessage(role="assistant", content="x" * 100_000),
    ChatMessage(role="user", content=""),
]


class Model:
    """Answers "ok" and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[ChatMessage]] = []
        self.llm = MockFunctionCallingLLM(response_generator=self._answer, is_chat_model=True)

    def _answer(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatMessage:
        self.asked.append(list(messages))
        return ChatMessage(role="assistant", content="ok")

    def roles(self) -> list[list[str]]:
        return [[message.role.value for message in messages] for messages in self.asked]


@pytest.fixture
def kept(memory: Memory, user: str) -> MemosMemory:
    return MemosMemory(memory=memory, session_id="s1", user_id=user)


# ------------------------------------------------------------ memory


def test_messages_come_back_as_they_were(kept: MemosMemory) -> None:
    assert isinstance(kept, BaseMemory)
    kept.put_messages(MESSAGES[:3])
    for message in MESSAGES[3:]:
        kept.put(message)
    assert kept.get_all() == MESSAGES
    assert kept.get() == MESSAGES  # nothing to recall from elsewhere


def test_set_and_reset_replace_the_session_alone(memory: Memory, kept: MemosMemory, user: str) -> None:
    other = MemosMemory.from_defaults(memory=memory, session_id="s2", user_id=user)
    for each in (kept, other):
        each.put(MESSAGES[1])
    kept.set(MESSAGES[4:6])
    assert (kept.get_all(), other.get_all()) == (MESSAGES[4:6], MESSAGES[1:2])
    kept.reset()
    assert (kept.get_all(), other.get_all()) == ([], MESSAGES[1:2])


def test_repeats_are_kept_when_notes_are_written(memory: Memory, kept: MemosMemory, user: str) -> None:
    same = [ChatMessage(role="user", content="Yes, please book the flight to Oslo")] * 4
    kept.put_messages(same)
    memory.wait(memory.refine(user_id=user))
    assert kept.get_all() == same


def test_other_sessions_are_recalled(memory: Memory, kept: MemosMemory, user: str) -> None:
    memory.store("Ann has a cat called Tom", user_id=user, event_time="2025-03-01T00:00:00Z")
    memory.store("Ann has a cat called Eve", user_id=f"other-{user}")
    MemosMemory(memory=memory, session_id="s0", user_id=user).put(ChatMessage(content="I moved to Oslo"))
    kept.put(ChatMessage(content="my cat is hungry"))
    system, own = kept.get("name of the cat")
    assert system.role == "system"
    heading, *lines = (system.content or "").splitlines()
    assert heading == kept.heading
    assert "[2025-03-01] Ann has a cat called Tom" in lines
    assert len(lines) == 2
    assert own.content == "my cat is hungry"
    assert kept.get()[0].content == system.content  # the latest message of the user asks where no input does


def test_recall_is_bounded(memory: Memory, user: str) -> None:
    for number in range(20):
        memory.store(f"The cat number {number} is called Tom", user_id=user)
    kept = MemosMemory(memory=memory, session_id="s1", user_id=user, top_k=20, max_tokens=30)
    (system,) = kept.get("cats called Tom")
    assert 1 < len((system.content or "").splitlines()) < 6


def test_memory_serves_asyncio(kept: MemosMemory) -> None:
    async def work() -> None:
        await kept.aput_messages(MESSAGES[:2])
        await kept.aput(MESSAGES[2])
        assert await kept.aget_all() == await kept.aget() == MESSAGES[:3]
        await kept.aset(MESSAGES[:1])
        assert await kept.aget_all() == MESSAGES[:1]
        await kept.areset()
        assert await kept.aget_all() == []

    asyncio.run(work())


def test_memory_can_be_written_down(kept: MemosMemory) -> None:
    written = kept.to_dict()
    assert (written["class_name"], written["session_id"]) == ("MemosMemory", "s1")
    assert "memory" not in written


def test_chat_engine_remembers(memory: Memory, kept: MemosMemory, user: str) -> None:
    memory.store("Ann has a cat called Tom", user_id=user)
    model = Model()
    engine = SimpleChatEngine.from_defaults(llm=model.llm, memory=kept)
    engine.chat("my cat is hungry")
    again = SimpleChatEngine.from_defaults(
        llm=model.llm, memory=MemosMemory(memory=memory, session_id="s1", user_id=user)
    )
    again.chat("what is my cat called?")
    assert model.roles()[1] == ["system", "user", "assistant", "user"]
    assert "called Tom" in (model.asked[1][0].content or "")
    assert [message.role.value for message in kept.get_all()] == ["user", "assistant"] * 2


def test_agent_remembers(memory: Memory, kept: MemosMemory, user: str) -> None:
    memory.store("Ann has a cat called Tom", user_id=user)
    model = Model()
    agent = FunctionAgent(llm=model.llm, tools=[], streaming=False)

    async def work() -> None:
        await agent.run(user_msg="my cat is hungry", memory=kept)
        await agent.run(user_msg="what is my cat called?", memory=kept)

    asyncio.run(work())
    assert model.roles() == [["system", "user"], ["system", "user", "assistant", "user"]]
    assert "called Tom" in (model.asked[0][0].content or "")


# ------------------------------------------------------------ block


def test_block_takes_what_short_term_memory_gives_up(memory: Memory, user: str) -> None:
    block = MemosMemoryBlock(memory=memory, user_id=user, top_k=2)
    both = LlamaMemory.from_defaults(
        session_id="s1", token_limit=60, token_flush_size=20, tokenizer_fn=str.split, memory_blocks=[block]
    )
    both.put(ChatMessage(role="user", content="My cat is called Tom"))
    both.put(ChatMessage(role="assistant", content="Noted"))
    for number in range(12):
        both.put(ChatMessage(role="user", content=f"Something else, number {number}, about the weather"))
        both.put(ChatMessage(role="assistant", content="Indeed"))
    both.put(ChatMessage(role="user", content="What is my cat called?"))
    stored = memory.list(user_id=user)
    assert (stored[0].text, stored[0].scope.run_id) == ("My cat is called Tom", "s1")
    assert stored[0].metadata == {"role": "user"}
    first = both.get()[0]
    assert first.role == "system"
    assert "My cat is called Tom" in (first.content or "")


def test_block_keeps_only_words(memory: Memory, user: str) -> None:
    block = MemosMemoryBlock(memory=memory, user_id=user, agent_id="a")
    asyncio.run(block.aput(MESSAGES))
    texts = [cube.text for cube in memory.list(user_id=user, agent_id="a")]
    assert texts == ["Weather in Oslo? ☕", "Cold,\nvery cold.", "this?", "x" * 100_000]
    asyncio.run(block.aput([]))


def test_block_with_nothing_to_say_is_silent(memory: Memory, user: str) -> None:
    block = MemosMemoryBlock(memory=memory, user_id=user)
    both = LlamaMemory.from_defaults(session_id="s1", tokenizer_fn=str.split, memory_blocks=[block])
    assert both.get() == []
    both.put(ChatMessage(role="user", content="hello"))
    assert [message.role.value for message in both.get()] == ["user"]
    memory.store("hello from elsewhere", user_id=user)
    assert [message.role.value for message in both.get()] == ["system", "user"]


def test_documented_example_runs(memory: Memory, example: str) -> None:
    memory.store("Ann has a cat called Tom", user_id="ann")
    model = Model()
    exec(example, {"memory": memory, "llm": model.llm})
    assert model.roles() == [["system", "user"]] * 2
    assert all("called Tom" in (messages[0].content or "") for messages in model.asked)
    memory.forget_all(user_id="ann")
