"""Whatever is handed in: a typed error that says what is wrong, and a store that is as it was and goes on working."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memos.embedding.base import Embedder
from memos.ids import new_id
from memos_sdk import Memory
from memos_sdk.errors import (
    IdempotencyConflict,
    InvalidFilter,
    InvalidInput,
    InvalidText,
    MemosError,
    NotFound,
    StoreClosed,
    StoreError,
)

MEGABYTE = 1 << 20
UNKNOWN = new_id()
BAD_TEXTS = {
    "empty": "",
    "spaces": " \t\n\u3000",
    "nul": "a\0b",
    "surrogate": "a\ud83d",
    "low surrogate": "\udc00",
    "too long": "x" * (MEGABYTE + 1),
    "too long in bytes": "é" * (MEGABYTE // 2) + "x",
    "none": None,
    "number": 5,
    "bytes": b"text",
    "list": ["text"],
}
BAD_NAMES: list[Any] = ["", " ", " u", "u\0", "u\ud800", "x" * 257, 5, True, b"u", ["u"], {}]
BAD_IDS: list[Any] = [UNKNOWN, UNKNOWN.upper(), "", "x", "a\0b", "\ud800", "%", "x" * 10_000]
BAD_ID_TYPES: list[Any] = [None, 5, 1.5, True, b"x", ["x"], {"id": "x"}]
BAD_TIMES: list[Any] = ["", "soon", "2026-13-01", 5, True, [], "9999-12-31T23:59:59-12:00"]
BAD_COUNTS: list[Any] = [0, -1, 1_001, 10**30, True, 1.0, "10", None, [1], float("nan")]


def deep(levels: int) -> dict[str, Any]:
    """An object nested ``levels`` deep."""
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"x": value}
    return value


def circular() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["x"] = value
    return value


BAD_METADATA: dict[str, Any] = {
    "list": ["a"],
    "string": "a",
    "number": 5,
    "nan": {"x": float("nan")},
    "infinity": {"x": [float("inf")]},
    "bytes": {"x": b"a"},
    "set": {"x": {1}},
    "time": {"x": datetime(2026, 1, 1, tzinfo=UTC)},
    "object": {"x": object()},
    "tuple key": {(1, 2): "x"},
    "nul": {"x": "a\0b"},
    "nul in key": {"a\0b": "x"},
    "surrogate": {"x": "\ud800"},
    "surrogate in key": {"\ud800": "x"},
    "too big": {"x": "a" * (64 << 10)},
    "too big in bytes": {"x": "é" * (40 << 10)},
    "circular": circular(),
    "too deep": deep(100_000),
    "rather deep": deep(400),
}
BAD_FILTERS: dict[str, Any] = {
    "string": "metadata.x",
    "list": [{"metadata.x": 1}],
    "unknown operator": {"metadata.x": {"$like": "a"}},
    "unknown among known": {"metadata.x": {"$gt": 1, "$between": 2}},
    "mixed operators and names": {"metadata.x": {"$gt": 1, "name": 2}},
    "unknown combinator": {"$xor": [{"metadata.x": 1}]},
    "unknown field": {"colour": "red"},
    "no metadata name": {"metadata.": 1},
    "bare metadata": {"metadata": 1},
    "user": {"user_id": "someone"},
    "namespace": {"namespace_id": 1},
    "number as field": {5: 1},
    "none as field": {None: 1},
    "tuple as field": {("a", "b"): 1},
    "empty and": {"$and": []},
    "and of object": {"$and": {"metadata.x": 1}},
    "and of strings": {"$or": ["metadata.x"]},
    "empty inside": {"$and": [{}]},
    "not of list": {"$not": [{"metadata.x": 1}]},
    "in without list": {"metadata.x": {"$in": "abc"}},
    "nin without list": {"metadata.x": {"$nin": 5}},
    "order of none": {"metadata.x": {"$gt": None}},
    "order of bool": {"metadata.x": {"$lt": True}},
    "order of list": {"metadata.x": {"$gte": [1]}},
    "bad time": {"created_at": {"$gt": "soon"}},
    "number as time": {"event_time": {"$gt": 5}},
    "bad time in list": {"event_time": {"$in": ["2026-01-01", "soon"]}},
    "array": {"metadata.x": np.array([1, 2])},
    "array in list": {"metadata.x": {"$in": [np.array([1, 2])]}},
    "object": {"metadata.x": {"$contains": object()}},
    "too deep": {"$not": {"$not": {"$not": {"$not": {"metadata.x": 1}}}}},
}
for _ in range(20):
    BAD_FILTERS["too deep"] = {"$not": BAD_FILTERS["too deep"]}


@pytest.fixture(scope="module")
def before(store: Memory) -> tuple[object, ...]:
    """What is in the store before any test, and so before each."""
    return everything(store)


@pytest.fixture
def unchanged(store: Memory, before: tuple[object, ...]) -> Iterator[Memory]:
    """The store, compared with how it began, and used once more at the end."""
    yield store
    assert everything(store) == before
    assert store.recall("which cat was adopted?").hits[0].text == "Ann adopted a cat"


def everything(store: Memory) -> tuple[object, ...]:
    users = ("default", "other")  # how often they were recalled is counted, sooner or later
    return tuple(
        ([cube.model_copy(update={"behaviour": None}) for cube in store.list(user_id=user)], store.stats(user_id=user))
        for user in users
    )


def ids(names: Mapping[str, object]) -> list[str]:
    return list(names)


# ---------------------------------------------------------------- texts


@pytest.mark.parametrize("text", BAD_TEXTS.values(), ids=ids(BAD_TEXTS))
def test_store_bad_text(unchanged: Memory, text: Any) -> None:
    with pytest.raises(InvalidText, match=r"^text ") as caught:
        unchanged.store(text)
    assert caught.value.index is None
    assert caught.value.status == 422


@pytest.mark.parametrize("text", BAD_TEXTS.values(), ids=ids(BAD_TEXTS))
def test_store_many_bad_text(unchanged: Memory, text: Any) -> None:
    with pytest.raises(InvalidText, match=r"^item 1: text ") as caught:
        unchanged.store_many([{"text": "fine"}, {"text": text}, {"text": "fine too"}])
    assert caught.value.index == 1


@pytest.mark.parametrize("text", BAD_TEXTS.values(), ids=ids(BAD_TEXTS))
def test_recall_bad_query(unchanged: Memory, text: Any) -> None:
    with pytest.raises(InvalidText):
        unchanged.recall(text)


@pytest.mark.parametrize("text", [text for text in BAD_TEXTS.values() if text is not None], ids=range(10))
def test_update_bad_text(unchanged: Memory, text: Any) -> None:
    cube = unchanged.list()[0]
    with pytest.raises(InvalidText):
        unchanged.update(cube.id, text=text)


def test_update_nothing(unchanged: Memory) -> None:
    with pytest.raises(InvalidInput, match="text, metadata or both"):
        unchanged.update(unchanged.list()[0].id)


@pytest.mark.parametrize("text", ["x" * MEGABYTE, "é" * (MEGABYTE // 2), "word " * 200_000])
def test_megabyte_is_accepted(memory: Memory, text: str) -> None:
    cube = memory.store(text)
    assert memory.get(cube.id).text == text
    assert memory.recall(text[:50]).hits[0].id == cube.id


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "text",
    ["?", "!!!", "🎉", "猫", "\u200b", "a\u0301", "﷽", "\x01\x7f\ufffe", "\\u0000", "'; --", "%_"],
)
def test_odd_text_survives(memory: Memory, text: str) -> None:
    cube = memory.store(text, metadata={text: [text, {text: text}]})
    assert memory.get(cube.id) == cube
    assert memory.recall(text).hits[0].metadata == {text: [text, {text: text}]}


@given(text=st.text(max_size=30))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_stored_or_refused(store: Memory, text: str) -> None:
    try:
        cube = store.store(text, user_id="fuzz", metadata={"x": text})
    except InvalidText:
        return
    assert store.get(cube.id).text == text
    assert store.forget(cube.id).cube_ids == (cube.id,)


# ---------------------------------------------------------------- batches


def test_large_batch_with_one_bad_item(unchanged: Memory) -> None:
    items: list[dict[str, Any]] = [{"text": f"memory {number}"} for number in range(10_000)]
    items[7_777] = {"text": "a\0b"}
    with pytest.raises(InvalidText, match=r"^item 7777: text holds a NUL") as caught:
        unchanged.store_many(items)
    assert caught.value.index == 7_777


@pytest.mark.parametrize(
    "item",
    [
        None,
        "text",
        5,
        ["text"],
        {},
        {"txt": "x"},
        {"text": "x", "colour": "red"},
        {"text": "x", 5: 1},
    ],
)
def test_bad_item(unchanged: Memory, item: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^item 2: ") as caught:
        unchanged.store_many([{"text": "a"}, {"text": "b"}, item])
    assert caught.value.index == 2


@pytest.mark.parametrize("items", [None, "text", b"text", 5, {"text": "x"}, {"x"}])
def test_bad_batch(unchanged: Memory, items: Any) -> None:
    with pytest.raises(InvalidInput, match="list of memories"):
        unchanged.store_many(items)


def test_batch_over_the_limit(unchanged: Memory) -> None:
    with pytest.raises(InvalidInput, match="100000 memories at most"):
        unchanged.store_many([{"text": "x"}] * 100_001)


def test_empty_batch_stores_nothing(unchanged: Memory) -> None:
    assert unchanged.store_many([], user_id="other") == []


# ---------------------------------------------------------------- the other arguments of a write


@pytest.mark.parametrize("metadata", BAD_METADATA.values(), ids=ids(BAD_METADATA))
def test_bad_metadata(unchanged: Memory, metadata: Any) -> None:
    cube = unchanged.list()[0]
    with pytest.raises(InvalidInput, match="metadata"):
        unchanged.store("x", metadata=metadata)
    with pytest.raises(InvalidInput, match="metadata"):
        unchanged.update(cube.id, metadata=metadata)


def test_metadata_as_any_mapping(memory: Memory) -> None:
    cube = memory.store("x", metadata=MappingProxyType({"a": 1}))
    assert memory.get(cube.id).metadata == {"a": 1}


def test_metadata_is_copied(memory: Memory) -> None:
    metadata = {"tags": ["a"]}
    cube = memory.store("x", metadata=metadata)
    metadata["tags"].append("b")
    assert cube.metadata == memory.recall("x").hits[0].metadata == {"tags": ["a"]}


@pytest.mark.parametrize("field", ["event_time", "expires_at"])
@pytest.mark.parametrize("value", BAD_TIMES)
def test_bad_time(unchanged: Memory, field: str, value: Any) -> None:
    with pytest.raises(InvalidInput, match=field):
        unchanged.store("x", **{field: value})


@pytest.mark.parametrize("back", [timedelta(0), timedelta(seconds=1), timedelta(days=10_000)])
def test_expiry_in_the_past(unchanged: Memory, back: timedelta) -> None:
    with pytest.raises(InvalidInput, match="expires_at lies in the past"):
        unchanged.store("x", expires_at=datetime.now(UTC) - back)


@pytest.mark.parametrize("infer", [None, 1, "yes", []])
def test_bad_infer(unchanged: Memory, infer: Any) -> None:
    with pytest.raises(InvalidInput, match="infer"):
        unchanged.store("x", infer=infer)


@pytest.mark.parametrize("key", BAD_NAMES)
def test_bad_idempotency_key(unchanged: Memory, key: Any) -> None:
    with pytest.raises(InvalidInput, match="idempotency_key"):
        unchanged.store("x", idempotency_key=key)


@pytest.mark.parametrize("version", ["1", 1.0, True, [1], 0, -1])
def test_bad_expected_version(unchanged: Memory, version: Any) -> None:
    with pytest.raises(InvalidInput, match="expected_version"):
        unchanged.update(unchanged.list()[0].id, text="x", expected_version=version)


# ---------------------------------------------------------------- names and ids

SCOPED: dict[str, Callable[..., object]] = {
    "store": lambda store, **names: store.store("x", **names),
    "store_many": lambda store, **names: store.store_many([{"text": "x"}], **names),
    "recall": lambda store, **names: store.recall("x", **names),
    "list": lambda store, **names: store.list(**names),
    "forget_all": lambda store, **names: store.forget_all(**names),
}
BY_ID: dict[str, Callable[..., object]] = {
    "get": lambda store, cube_id, **names: store.get(cube_id, **names),
    "history": lambda store, cube_id, **names: store.history(cube_id, **names),
    "links": lambda store, cube_id, **names: store.links(cube_id, **names),
    "rollback": lambda store, cube_id, **names: store.rollback(cube_id, 1, **names),
    "update": lambda store, cube_id, **names: store.update(cube_id, text="x", **names),
    "forget": lambda store, cube_id, **names: store.forget(cube_id, **names),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("operation", SCOPED.values(), ids=ids(SCOPED))
@pytest.mark.parametrize("field", ["user_id", "agent_id", "run_id"])
@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_name(unchanged: Memory, operation: Callable[..., object], field: str, name: Any) -> None:
    with pytest.raises(InvalidInput, match=field):
        operation(unchanged, **{field: name})


@pytest.mark.sampled(3)
@pytest.mark.parametrize("operation", BY_ID.values(), ids=ids(BY_ID))
@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_user_of_id(unchanged: Memory, operation: Callable[..., object], name: Any) -> None:
    with pytest.raises(InvalidInput, match="user_id"):
        operation(unchanged, unchanged.list()[0].id, user_id=name)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_user_of_stats(unchanged: Memory, name: Any) -> None:
    with pytest.raises(InvalidInput, match="user_id"):
        unchanged.stats(user_id=name)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("operation", BY_ID.values(), ids=ids(BY_ID))
@pytest.mark.parametrize("cube_id", BAD_IDS, ids=range(len(BAD_IDS)))
@pytest.mark.parametrize("user_id", [None, "default", "nobody"])
def test_unknown_id(unchanged: Memory, operation: Callable[..., object], cube_id: str, user_id: str | None) -> None:
    with pytest.raises(NotFound, match="no memory"):
        operation(unchanged, cube_id, user_id=user_id)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("operation", BY_ID.values(), ids=ids(BY_ID))
@pytest.mark.parametrize("cube_id", BAD_ID_TYPES)
def test_id_of_wrong_type(unchanged: Memory, operation: Callable[..., object], cube_id: Any) -> None:
    with pytest.raises((InvalidInput, NotFound)):
        operation(unchanged, cube_id)


@pytest.mark.parametrize("operation", BY_ID.values(), ids=ids(BY_ID))
def test_id_of_another_user(unchanged: Memory, operation: Callable[..., object]) -> None:
    """Somebody else's id reads like one that does not exist."""
    cube_id = unchanged.list()[0].id
    with pytest.raises(NotFound, match=f"no memory '{cube_id}' here"):
        operation(unchanged, cube_id, user_id="other")


def test_forgetting_nobody(unchanged: Memory) -> None:
    receipt = unchanged.forget_all(user_id="other")
    assert (receipt.cube_ids, set(receipt.removed.values())) == ((), {0})


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("top_k", BAD_COUNTS)
def test_bad_top_k(unchanged: Memory, top_k: Any) -> None:
    with pytest.raises(InvalidInput, match="top_k"):
        unchanged.recall("cat", top_k=top_k)


@pytest.mark.parametrize("limit", BAD_COUNTS)
def test_bad_limit(unchanged: Memory, limit: Any) -> None:
    with pytest.raises(InvalidInput, match="limit"):
        unchanged.list(limit=limit)


@pytest.mark.parametrize("after", ["", "x", "\ud800", 5, True, ["x"], b"x"])
def test_bad_after(unchanged: Memory, after: Any) -> None:
    with pytest.raises(InvalidInput, match="after"):
        unchanged.list(after=after)


@pytest.mark.parametrize("tokens", [0, -1, 10**30, True, 1.5, "10", [1]])
def test_bad_max_tokens(unchanged: Memory, tokens: Any) -> None:
    with pytest.raises(InvalidInput, match="max_tokens"):
        unchanged.recall("cat", max_tokens=tokens)


@pytest.mark.parametrize("as_of", BAD_TIMES)
def test_bad_as_of(unchanged: Memory, as_of: Any) -> None:
    with pytest.raises(InvalidInput, match="as_of"):
        unchanged.recall("cat", as_of=as_of)


@pytest.mark.parametrize("explain", [None, 1, "yes", [], object()])
def test_bad_explain(unchanged: Memory, explain: Any) -> None:
    with pytest.raises(InvalidInput, match="explain"):
        unchanged.recall("cat", explain=explain)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("filters", BAD_FILTERS.values(), ids=ids(BAD_FILTERS))
@pytest.mark.parametrize("user_id", [None, "nobody"])
def test_bad_filter(unchanged: Memory, filters: Any, user_id: str | None) -> None:
    """Refused even where there is nothing to search."""
    with pytest.raises(InvalidFilter):
        unchanged.recall("cat", filters=filters, user_id=user_id)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "question",
    [
        "what happened in december?",
        "and on 31 December?",
        "what was last year, last month, last week, last Monday, yesterday?",
        "99 years ago? 0 days ago? 1000000000000000000000000 weeks ago?",
        "on 31 February 2023, on 0 May, on 39 May 2023, 2023-02-31, 2023-99-99, 1999-12-45?",
    ],
)
@pytest.mark.parametrize("as_of", [None, "0001-01-01", "9999-12-31T23:59:59"])
def test_dates_at_the_edges(memory: Memory, question: str, as_of: str | None) -> None:
    """Memories at both ends of the calendar, and questions about days that do not exist."""
    memory.store("the beginning", event_time="0001-01-01")
    memory.store("the end", event_time="9999-12-31T23:59:59.999999")
    assert len(memory.recall(question).hits) == 2
    assert len(memory.recall(question, as_of=as_of).hits) >= 1


# ---------------------------------------------------------------- opening and closing


def test_closed_store(tmp_path: Path, embedder: Embedder) -> None:
    store = Memory(path=tmp_path, embedder=embedder)
    store.close()
    store.close()
    for operation in SCOPED.values():
        with pytest.raises(StoreClosed):
            operation(store)
    for operation in BY_ID.values():
        with pytest.raises(StoreClosed):
            operation(store, UNKNOWN)


def test_path_is_a_file(tmp_path: Path, embedder: Embedder) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError):
        Memory(path=tmp_path / "file", embedder=embedder)
    with pytest.raises(StoreError):
        Memory(path=tmp_path / "file" / "below", embedder=embedder)


@pytest.mark.parametrize("path", [5, b"x", ["x"], "a\0b"])
def test_path_of_wrong_type(path: Any, embedder: Embedder) -> None:
    with pytest.raises(MemosError):
        Memory(path=path, embedder=embedder)


@pytest.mark.parametrize("embedder", [5, object(), ["x"], ""])
def test_embedder_of_wrong_type(tmp_path: Path, embedder: Any) -> None:
    with pytest.raises(InvalidInput, match="embedder"):
        Memory(path=tmp_path, embedder=embedder)


def test_bad_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong setting is named; its value, which may be a secret, is not shown."""
    monkeypatch.setenv("MEMOS_EMBED_BATCH", "s3cret")
    with pytest.raises(InvalidInput, match="MEMOS_EMBED_BATCH") as caught:
        Memory(path=tmp_path)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host", "http://", "file:///data", "http://a b"])
def test_bad_url(url: str) -> None:
    with pytest.raises(InvalidInput, match="URL of a server"):
        Memory(url)


@pytest.mark.parametrize(
    "both", [{"path": "data"}, {"embedder": "all-MiniLM-L6-v2"}, {"api_key": "ключ"}, {"api_key": "a\nb"}]
)
def test_url_and_what_it_excludes(both: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        Memory("http://localhost:8000", **both)  # type: ignore[arg-type]


def test_key_without_url(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="api_key"):
        Memory(path=tmp_path, api_key="memos_x")


def test_second_opening_is_refused(tmp_path: Path, embedder: Embedder) -> None:
    with Memory(path=tmp_path, embedder=embedder) as memory:
        with pytest.raises(StoreError, match="is open in process") as caught:
            Memory(path=tmp_path, embedder=embedder)
        assert caught.value.code == "store-in-use"
        memory.store("still works")


def test_idempotency_conflict(memory: Memory) -> None:
    memory.store("x", idempotency_key="k")
    with pytest.raises(IdempotencyConflict):
        memory.store("y", idempotency_key="k")
    assert memory.stats().memories == 1
