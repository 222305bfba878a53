"""``MemosStore`` against LangGraph: as its own store where that defines what is right, and inside a graph."""

from __future__ import annotations

import asyncio
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.store.base import BaseStore, GetOp, InvalidNamespaceError, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore

from memos_sdk import Memory
from memos_sdk.integrations.langgraph import MemosStore

VALUES: dict[str, dict[str, Any]] = {
    "empty": {},
    "scalars": {"a": 1, "b": -0.5, "c": True, "d": None, "e": "", "f": 2**70, "g": 1e-320, "h": 1.0},
    "nested": {"list": [1, [2, {"x": []}]], "object": {"": {"deep.er": [None, False]}}},
    "text": {"text": "  Ann adopted a cat.\n", "tags": ["pet"]},
    "langmem": {"kind": "Memory", "content": {"content": "Ann adopted a cat."}},
    "unicode": {"text": "naïve ☕ 🐈 \u2028 \\u0000 \"'"},
    "refused by metadata": {"text": "NUL \0 and a lone surrogate \ud83d"},
    "deep": functools.reduce(lambda inner, _: {"inner": inner}, range(59), {"text": "cat"}),
    "large": {"text": "a cat " * 40_000, "n": 1},
    "names that filters use": {"$eq": 1, "namespace": {"0": "x"}, "in_text": True},
}
CATS = {
    "tom": {"text": "Tom is a grey cat", "age": 3, "indoor": True, "tags": ["grey"], "home": {"city": "Oslo"}},
    "kit": {"text": "Kit is a black cat", "age": 7.5, "indoor": False, "tags": [], "home": {"city": "Rome"}},
    "old": {"text": "Old is a cat of unknown age", "age": None, "a.b": 1},
    "rex": {"text": "Rex is a dog", "age": 3, "indoor": 1, "tags": ["grey"], "home": {"city": "Oslo", "zip": "1"}},
}
FILTERS: list[dict[str, Any]] = [
    {},
    {"age": 3},
    {"age": 3.0},
    {"age": None},
    {"age": {"$eq": 3}},
    {"age": {"$ne": 3}},
    {"age": {"$ne": None}, "text": {"$ne": "Rex is a dog"}},
    {"indoor": False},
    {"text": "Kit is a black cat"},
    {"tags": ["grey"]},
    {"tags": []},
    {"home": {"city": "Oslo"}},
    {"home": {"city": {"$ne": "Rome"}}},
    {"a.b": 1},
    {"nothing": "here"},
]


@pytest.fixture
def store(memory: Memory, user: str) -> MemosStore:
    return MemosStore(memory, user_id=user)


def keys(items: Any) -> set[str]:
    return {item.key for item in items}


# ------------------------------------------------------------ items


@pytest.mark.parametrize("name", VALUES)
def test_value_comes_back_as_it_was(store: MemosStore, name: str) -> None:
    store.put(("values",), name, VALUES[name])
    item = store.get(("values",), name)
    assert item is not None
    assert (item.value, item.key, item.namespace) == (VALUES[name], name, ("values",))
    assert [found.value for found in store.search(("values",))] == [VALUES[name]]
    assert [found.value for found in store.search(("values",), query="cat")] == [VALUES[name]]


def test_item_put_again_is_replaced(store: MemosStore, memory: Memory, user: str) -> None:
    store.put(("pets",), "a", {"text": "a cat"})
    first = store.get(("pets",), "a")
    store.put(("pets",), "a", {"text": "a dog", "n": 2})
    second = store.get(("pets",), "a")
    assert second.value == {"text": "a dog", "n": 2}
    assert first.created_at == second.created_at < second.updated_at
    assert store.search(("pets",), query="dog")[0].updated_at == second.updated_at
    (cube,) = memory.list(user_id=user)
    assert (cube.text, cube.version) == ("a dog", 2)


def test_item_that_grows_and_shrinks_is_replaced_whole(store: MemosStore) -> None:
    for name in ("text", "large", "refused by metadata", "text"):
        store.put(("grow",), "k", VALUES[name])
        assert store.get(("grow",), "k").value == VALUES[name]


def test_item_deleted_is_gone(store: MemosStore, memory: Memory, user: str) -> None:
    store.put(("pets",), "a", {"text": "a cat"})
    store.put(("pets",), "b", {"text": "another cat"})
    store.delete(("pets",), "a")
    store.delete(("pets",), "a")
    store.delete(("pets",), "never")
    assert store.get(("pets",), "a") is None
    assert keys(store.search(("pets",), query="cat")) == {"b"}
    assert len(memory.list(user_id=user)) == 1
    store.put(("pets",), "a", {"text": "a new cat"})
    assert store.get(("pets",), "a").value == {"text": "a new cat"}


def test_keys_are_told_apart(store: MemosStore) -> None:
    places = [
        (("a", "b"), "c"),
        (("a",), "b"),
        (("a",), "c"),
        (("a", "b", "c"), ""),
        ((" a",), "c"),
        (("*",), "ü" * 300),
    ]
    for number, (namespace, key) in enumerate(places):
        store.put(namespace, key, {"n": number})
    for number, (namespace, key) in enumerate(places):
        assert store.get(namespace, key).value == {"n": number}


def test_other_memories_are_no_items(store: MemosStore, memory: Memory, user: str) -> None:
    memory.store("Ann adopted a cat", user_id=user)
    memory.store("Ann adopted a cat", user_id=user, agent_id="langgraph")
    store.put(("pets",), "a", {"text": "a cat"})
    assert keys(store.search((), query="cat")) == keys(store.search(())) == {"a"}
    assert store.list_namespaces() == [("pets",)]
    assert len(memory.recall("cat", user_id=user).hits) == 2  # and recall finds items; two of the three say the same


# ------------------------------------------------------------ searching


@pytest.mark.parametrize("wanted", FILTERS, ids=str)
def test_filter_holds_as_in_langgraph(store: MemosStore, wanted: dict[str, Any]) -> None:
    reference = InMemoryStore()
    for key, value in CATS.items():
        store.put(("cats",), key, value)
        reference.put(("cats",), key, value)
    expected = keys(reference.search((), filter=wanted))
    assert keys(store.search((), filter=wanted)) == expected
    assert keys(store.search((), filter=wanted, query="a cat")) == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"age": {"$gt": 3}}, {"kit"}),
        ({"age": {"$gte": 3, "$lt": 7.5}}, {"tom", "rex"}),
        ({"age": {"$lte": 3}}, {"tom", "rex"}),
        ({"text": {"$lt": "L"}}, {"kit"}),  # LangGraph's own store compares numbers only
        ({"age": {"$gt": "3"}}, set()),
        ({"indoor": True}, {"tom"}),  # JSON's true is not 1, here as in LangGraph's Postgres store
        ({"home": {"zip": {"$gte": "0"}}}, {"rex"}),
    ],
    ids=str,
)
def test_filter_compares_as_json(store: MemosStore, wanted: dict[str, Any], expected: set[str]) -> None:
    for key, value in CATS.items():
        store.put(("cats",), key, value)
    assert keys(store.search((), filter=wanted)) == expected
    assert keys(store.search((), filter=wanted, query="a cat")) == expected


def test_filter_reaches_values_beyond_metadata(store: MemosStore) -> None:
    store.put(("values",), "large", VALUES["large"])
    store.put(("values",), "text", VALUES["text"])
    assert keys(store.search((), query="cat", filter={"n": 1})) == {"large"}
    assert keys(store.search((), query="cat", filter={"n": {"$ne": 1}})) == {"text"}


@pytest.mark.parametrize("query", [None, "cat"])
def test_unknown_operator_is_refused(store: MemosStore, query: str | None) -> None:
    store.put(("cats",), "tom", CATS["tom"])
    with pytest.raises(ValueError, match="unknown operator '\\$regex'"):
        store.search((), query=query, filter={"age": {"$regex": 3}})


def test_search_ranks_by_meaning(store: MemosStore) -> None:
    store.put(("facts",), "pet", {"content": "Ann adopted a cat", "n": 1})
    store.put(("facts",), "home", {"content": "Ben lives in Oslo", "n": 2})
    best, other = store.search(("facts",), query="Where does Ben live?")
    assert (best.key, other.key) == ("home", "pet")
    assert best.score > other.score


def test_search_finds_items_that_say_the_same(store: MemosStore) -> None:
    """Recall gives near-duplicates once; in a store they are items of their own."""
    for number in range(30):
        store.put(("same",), f"k{number}", {"text": "Ann likes tea", "n": number})
    found = store.search(("same",), query="tea", limit=100)
    assert keys(found) == {f"k{number}" for number in range(30)}
    assert len(found) == 30
    assert keys(store.search(("same",), query="tea", filter={"n": {"$gte": 28}})) == {"k28", "k29"}


@pytest.mark.parametrize("query", [None, "note"])
def test_search_pages_through_everything_once(store: MemosStore, query: str | None) -> None:
    for number in range(25):
        store.put(("notes", f"s{number % 3}"), f"k{number}", {"text": f"note number {number}"})
    pages = [store.search(("notes",), query=query, limit=10, offset=offset) for offset in (0, 10, 20, 30)]
    assert [len(page) for page in pages] == [10, 10, 5, 0]
    assert len({key for page in pages for key in keys(page)}) == 25
    assert store.search(("notes",), query=query, limit=0) == []


@pytest.mark.parametrize("query", [None, "x"])
def test_search_keeps_to_the_prefix(store: MemosStore, query: str | None) -> None:
    for namespace in [("a",), ("a", "b"), ("ab",), ("b", "a")]:
        store.put(namespace, "/".join(namespace), {"text": "x"})
    assert keys(store.search(("a",), query=query)) == {"a", "a/b"}
    assert keys(store.search(("a", "b"), query=query)) == {"a/b"}
    assert keys(store.search((), query=query)) == {"a", "a/b", "ab", "b/a"}
    assert store.search(("c",), query=query) == []


def test_filter_that_recall_cannot_apply_looks_deeper(store: MemosStore) -> None:
    for number in range(120):
        store.put(("deep",), f"k{number}", {"text": f"cat {number}", "tags": ["last"] if number == 119 else []})
    assert keys(store.search(("deep",), query="cat", filter={"tags": ["last"]}, limit=1)) == {"k119"}


def test_index_chooses_what_is_searched(store: MemosStore) -> None:
    value = {"text": "about nothing", "meta": {"title": "sailing"}, "parts": [{"t": "knots"}, {"t": "ropes"}]}
    store.put(("docs",), "plain", {"text": "about something"})
    store.put(("docs",), "chosen", value, index=["meta.title", "parts[*].t"])
    store.put(("docs",), "hidden", {"text": "sailing knots and ropes"}, index=False)
    found = store.search(("docs",), query="sailing knots and ropes")
    assert [item.key for item in found] == ["chosen", "plain"]
    assert keys(store.search(("docs",))) == {"plain", "chosen", "hidden"}
    assert store.get(("docs",), "chosen").value == value


# ------------------------------------------------------------ namespaces


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"prefix": ("a",)},
        {"suffix": ("v1",)},
        {"prefix": ("a", "*"), "suffix": ("v1",)},
        {"prefix": ("*", "c")},
        {"suffix": ("c", "*")},
        {"max_depth": 1},
        {"max_depth": 2, "prefix": ("a",)},
        {"limit": 2},
        {"limit": 2, "offset": 1},
        {"offset": 9},
        {"prefix": ("a", "b", "v1", "x", "y")},
    ],
    ids=str,
)
def test_namespaces_are_listed_as_in_langgraph(store: MemosStore, asked: dict[str, Any]) -> None:
    reference = InMemoryStore()
    for namespace in [("a",), ("a", "b"), ("a", "b", "v1"), ("a", "c", "v1"), ("ab",), ("z", "c", "v2")]:
        for each in (store, reference):
            each.put(namespace, "k", {"text": "x"})
            each.put(namespace, "l", {"text": "y"})
    assert store.list_namespaces(**asked) == reference.list_namespaces(**asked)


def test_namespace_names_the_user(memory: Memory, user: str) -> None:
    store = MemosStore(memory, user_at=1)
    ann, ben = f"ann-{user}", f"ben-{user}"
    store.put(("memories", ann), "k", {"text": "Ann likes tea"})
    store.put(("memories", ben, "deep"), "k", {"text": "Ben likes tea"})
    assert [cube.text for cube in memory.list(user_id=ann)] == ["Ann likes tea"]
    assert [item.value["text"] for item in store.search(("memories", ann), query="tea")] == ["Ann likes tea"]
    assert store.list_namespaces(prefix=("memories", ben)) == [("memories", ben, "deep")]
    for call in (
        lambda: store.search(("memories",)),
        lambda: store.put(("memories",), "k", {}),
        store.list_namespaces,
        lambda: store.list_namespaces(prefix=("memories", "*")),
    ):
        with pytest.raises(InvalidNamespaceError):
            call()
    memory.forget_all(user_id=ann)
    assert store.get(("memories", ann), "k") is None
    assert store.get(("memories", ben, "deep"), "k") is not None


# ------------------------------------------------------------ several at once


def test_batch_answers_in_order_and_reads_before_it_writes(store: MemosStore) -> None:
    store.put(("b",), "k", {"n": 0})
    results = store.batch(
        [
            PutOp(("b",), "k", {"n": 1}),
            GetOp(("b",), "k"),
            PutOp(("b",), "k", {"n": 2}),
            SearchOp(("b",)),
            PutOp(("b",), "gone", {"n": 3}),
            PutOp(("b",), "gone", None),
            GetOp(("b",), "missing"),
        ]
    )
    assert [results[index] for index in (0, 2, 4, 5, 6)] == [None] * 5
    assert results[1].value == {"n": 0}
    assert [item.value for item in results[3]] == [{"n": 0}]
    assert store.get(("b",), "k").value == {"n": 2}
    assert store.get(("b",), "gone") is None


def test_writers_of_a_new_key_leave_one_item(store: MemosStore, memory: Memory, user: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.put(("race",), "k", {"text": f"writer {n}"}), range(16)))
    (cube,) = memory.list(user_id=user)
    assert store.get(("race",), "k").value == {"text": cube.text}
    store.put(("race",), "k", {"text": "afterwards"})
    assert [item.value["text"] for item in store.search(("race",), query="writer")] == ["afterwards"]


def test_writers_and_deleters_of_a_key_get_along(store: MemosStore) -> None:
    store.put(("race",), "k", {"n": -1})
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.put(("race",), "k", {"n": n} if n % 3 else None), range(24)))
    store.put(("race",), "k", {"n": 99})
    assert [item.value for item in store.search(("race",))] == [{"n": 99}]


def test_store_serves_asyncio(store: MemosStore) -> None:
    async def work() -> None:
        await asyncio.gather(*(store.aput(("async",), f"k{n}", {"text": f"cat {n}"}) for n in range(12)))
        items = await asyncio.gather(*(store.aget(("async",), f"k{n}") for n in range(12)))
        assert [item.value for item in items] == [{"text": f"cat {n}"} for n in range(12)]
        assert len(await store.asearch(("async",), query="cat", limit=20)) == 12
        assert await store.alist_namespaces() == [("async",)]
        await store.adelete(("async",), "k3")
        assert await store.aget(("async",), "k3") is None

    asyncio.run(work())


def test_items_with_notes_stay_as_they_are(memory: Memory, user: str) -> None:
    """Notes make versions of their own in the background: puts still win, and what is read is what was put."""
    store = MemosStore(memory, user_id=user, infer=True)
    for number in range(6):
        store.put(("notes",), f"k{number}", {"text": f"Ann moved to Oslo with her cat number {number}"})
        store.put(("notes",), "k0", {"text": f"Ann has {number} cats in Oslo"})
    memory.wait(memory.refine(user_id=user))
    assert store.get(("notes",), "k0").value == {"text": "Ann has 5 cats in Oslo"}
    assert len(store.search(("notes",))) == 6
    assert memory.stats(user_id=user).waiting == 0
    assert memory.list(user_id=user)[0].descriptor.keywords


# ------------------------------------------------------------ in a graph


class State(TypedDict):
    said: str
    known: list[str]


def test_graph_remembers_across_threads(store: MemosStore) -> None:
    def remember(state: State, *, store: BaseStore) -> dict[str, Any]:
        known = store.search(("facts", "ann"), query=state["said"], limit=1)
        store.put(("facts", "ann"), state["said"][:8], {"text": state["said"]})
        return {"known": [item.value["text"] for item in known]}

    graph = StateGraph(State)
    graph.add_node("remember", remember)
    graph.add_edge(START, "remember")
    graph.add_edge("remember", END)
    compiled = graph.compile(store=store)
    assert compiled.invoke({"said": "Ann adopted a cat", "known": []})["known"] == []
    assert compiled.invoke({"said": "which cat?", "known": []})["known"] == ["Ann adopted a cat"]


def test_graph_remembers_on_asyncio(store: MemosStore) -> None:
    async def remember(state: State, *, store: BaseStore) -> dict[str, Any]:
        await store.aput(("facts",), "k", {"text": state["said"]})
        return {"known": [item.value["text"] for item in await store.asearch(("facts",), query="cat")]}

    graph = StateGraph(State)
    graph.add_node("remember", remember)
    graph.add_edge(START, "remember")
    compiled = graph.compile(store=store)
    answer = asyncio.run(compiled.ainvoke({"said": "Ann adopted a cat", "known": []}))
    assert answer["known"] == ["Ann adopted a cat"]


def test_documented_example_runs(memory: Memory, example: str) -> None:
    builder = StateGraph(State)
    builder.add_node("say", lambda state: state)
    builder.add_edge(START, "say")
    scope: dict[str, Any] = {"memory": memory, "builder": builder}
    exec(example, scope)
    assert [item.key for item in scope["store"].search(("memories", "ann"))] == ["pet"]
    memory.forget_all(user_id="ann")
