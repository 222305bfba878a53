"""The LangChain retriever and chat message history in chains, as LangChain calls them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import ParrotFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.runnables.history import RunnableWithMessageHistory
from pydantic import ValidationError

from memos_sdk import AsyncMemory, Memory
from memos_sdk.errors import InvalidFilter, MemosError
from memos_sdk.integrations.langchain import MemosChatMessageHistory, MemosRetriever

MESSAGES: list[BaseMessage] = [
    SystemMessage("Be brief."),
    HumanMessage("Weather in Oslo?", id="m1", name="ann", additional_kwargs={"lang": "en"}),
    AIMessage(
        "",
        tool_calls=[{"name": "weather", "args": {"city": "Oslo", "days": [1, 2]}, "id": "c1", "type": "tool_call"}],
        response_metadata={"model": "m"},
        usage_metadata={"input_tokens": 3, "output_tokens": 4, "total_tokens": 7},
    ),
    ToolMessage('{"t": -3.5}', tool_call_id="c1", artifact={"raw": [1, None]}),
    AIMessage([{"type": "text", "text": "Minus three ☕"}, {"type": "text", "text": "and a half"}]),
    HumanMessage([{"type": "text", "text": "this?"}, {"type": "image_url", "image_url": {"url": "data:,x" * 20_000}}]),
    HumanMessage("  NUL \0 and a lone surrogate \ud83d"),
    HumanMessage(""),
]


@pytest.fixture
def history(memory: Memory, user: str) -> MemosChatMessageHistory:
    return MemosChatMessageHistory(memory, "s1", user_id=user)


# ------------------------------------------------------------ retriever


@pytest.fixture
def facts(memory: Memory, user: str) -> Memory:
    """A user's three facts, and one of somebody else."""
    memory.store("Ann adopted a cat", user_id=user, metadata={"topic": "pets"}, event_time="2025-03-01T00:00:00Z")
    memory.store("Ben lives in Oslo", user_id=user, agent_id="a", run_id="r", metadata={"topic": "home"})
    memory.store("Cleo plays the oboe", user_id=user)
    memory.store("Dan adopted a cat", user_id=f"other-{user}")
    return memory


def test_retriever_returns_documents_best_first(facts: Memory, user: str) -> None:
    documents = MemosRetriever(memory=facts, user_id=user).invoke("Who adopted a cat?")
    assert len(documents) == 3
    best = documents[0]
    assert best.page_content == "Ann adopted a cat"
    assert (best.metadata["topic"], best.metadata["event_time"]) == ("pets", "2025-03-01T00:00:00+00:00")
    assert best.metadata["score"] > documents[1].metadata["score"]
    assert facts.get(best.id or "", user_id=user).text == "Ann adopted a cat"


def test_retriever_is_narrowed(facts: Memory, user: str) -> None:
    def texts(**options: Any) -> list[str]:
        return [each.page_content for each in MemosRetriever(memory=facts, user_id=user, **options).invoke("a cat")]

    assert texts(top_k=1) == ["Ann adopted a cat"]
    assert texts(filters={"metadata.topic": "home"}) == ["Ben lives in Oslo"]
    assert texts(agent_id="a", run_id="r") == ["Ben lives in Oslo"]
    assert texts(run_id="none") == []


def test_retriever_serves_batches_and_asyncio(facts: Memory, user: str) -> None:
    retriever = MemosRetriever(memory=facts, user_id=user, top_k=1)
    questions = ["Who adopted a cat?", "Who lives in Oslo?"]
    expected = [["Ann adopted a cat"], ["Ben lives in Oslo"]]
    answers = [retriever.batch(questions), asyncio.run(retriever.abatch(questions))]
    for answer in answers:
        assert [[each.page_content for each in documents] for documents in answer] == expected


def test_retriever_feeds_a_chain(facts: Memory, user: str) -> None:
    retriever = MemosRetriever(memory=facts, user_id=user, top_k=1)
    prompt = ChatPromptTemplate.from_template("{context}\n{question}")
    context = retriever | (lambda documents: documents[0].page_content)
    chain = {"context": context, "question": RunnablePassthrough()} | prompt | ParrotFakeChatModel()
    assert chain.invoke("Who lives in Oslo?").content == "Ben lives in Oslo\nWho lives in Oslo?"


def test_retriever_says_what_is_wrong(facts: Memory, user: str) -> None:
    with pytest.raises(InvalidFilter):
        MemosRetriever(memory=facts, user_id=user, filters={"topic": 1}).invoke("cat")
    with pytest.raises(ValidationError):
        MemosRetriever(memory=AsyncMemory(path="never-opened"), user_id=user)


# ------------------------------------------------------------ history


def test_history_keeps_messages_as_they_were(history: MemosChatMessageHistory) -> None:
    history.add_messages(MESSAGES[:3])
    history.add_messages([])
    history.add_messages(MESSAGES[3:])
    assert history.messages == MESSAGES
    assert str(history).startswith("System: Be brief.")


def test_history_keeps_order_and_repeats(memory: Memory, history: MemosChatMessageHistory, user: str) -> None:
    """Notes merge what says the same; a history must not lose the second "yes"."""
    for number in range(6):
        history.add_user_message("Yes, I adopted a cat in Oslo")
        history.add_ai_message("Yes, I adopted a cat in Oslo" if number % 2 else f"You have {number} cats")
    memory.wait(memory.refine(user_id=user))
    assert [message.type for message in history.messages] == ["human", "ai"] * 6
    assert [message.content for message in history.messages].count("Yes, I adopted a cat in Oslo") == 9


def test_history_longer_than_a_page(history: MemosChatMessageHistory) -> None:
    history.add_messages([HumanMessage(f"message {number}") for number in range(1_100)])
    history.add_message(AIMessage("last"))
    contents = [message.content for message in history.messages]
    assert contents == [f"message {number}" for number in range(1_100)] + ["last"]


def test_history_clears_its_session_alone(memory: Memory, history: MemosChatMessageHistory, user: str) -> None:
    other = MemosChatMessageHistory(memory, "s2", user_id=user)
    stranger = MemosChatMessageHistory(memory, "s1", user_id=f"other-{user}")
    memory.store("A memory of another kind", user_id=user, run_id="s1")
    for each in (history, other, stranger):
        each.add_user_message("hello")
    history.clear()
    history.clear()
    assert [len(each.messages) for each in (history, other, stranger)] == [0, 1, 1]
    assert len(memory.list(user_id=user)) == 2


def test_history_is_found_by_recall(memory: Memory, history: MemosChatMessageHistory, user: str) -> None:
    history.add_messages([HumanMessage("My cat is called Tom"), AIMessage("A fine name")])
    (best, *_) = memory.recall("name of the cat", user_id=user, filters={"metadata.role": "user"}).hits
    assert (best.text, best.run_id) == ("My cat is called Tom", "s1")


def test_history_refuses_what_json_has_no_form_for(history: MemosChatMessageHistory) -> None:
    with pytest.raises(TypeError):
        history.add_messages([HumanMessage("fine"), ToolMessage("x", tool_call_id="c", artifact=object())])
    assert history.messages == []
    with pytest.raises(MemosError):
        history.add_user_message("x" * 2_000_000)


def test_history_serves_asyncio(history: MemosChatMessageHistory) -> None:
    async def work() -> None:
        await history.aadd_messages(MESSAGES)
        assert await history.aget_messages() == MESSAGES
        await history.aclear()
        assert await history.aget_messages() == []

    asyncio.run(work())


@pytest.mark.filterwarnings("ignore:RunnableWithMessageHistory is deprecated")
def test_history_carries_a_conversation(memory: Memory, user: str) -> None:
    prompt = ChatPromptTemplate.from_messages([MessagesPlaceholder("history"), ("human", "{question}")])
    count = RunnableLambda(lambda value: AIMessage(f"{len(value.to_messages())} messages"))
    chain = RunnableWithMessageHistory(
        prompt | count,
        lambda session_id: MemosChatMessageHistory(memory, session_id, user_id=user),
        input_messages_key="question",
        history_messages_key="history",
    )

    def said(session: str) -> str:
        return str(chain.invoke({"question": "hello"}, {"configurable": {"session_id": session}}).content)

    assert [said("s1"), said("s1"), said("s2")] == ["1 messages", "3 messages", "1 messages"]
    assert len(MemosChatMessageHistory(memory, "s1", user_id=user).messages) == 4


def test_documented_example_runs(memory: Memory, example: str) -> None:
    memory.store("Ann adopted a cat", user_id="ann", metadata={"topic": "pets"})
    scope: dict[str, Any] = {"memory": memory}
    exec(example, scope)
    assert [each.page_content for each in scope["documents"]] == ["Ann adopted a cat"]
    assert [each.content for each in scope["history"].messages] == ["My cat is called Tom."]
    memory.forget_all(user_id="ann")
