"""The filter grammar against a naive evaluator, and what filters do in a recall."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Row

from memos.clock import to_us
from memos.config import Settings
from memos.cube import Scope
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.errors import InvalidFilter
from memos.plaintext.filters import MAX_DEPTH, parse
from memos.store.columns import HEADER, ColumnStore
from memos_sdk import Memory

MAY_8 = to_us(datetime(2026, 5, 8, tzinfo=UTC))
MAY_9 = to_us(datetime(2026, 5, 9, tzinfo=UTC))


def columns(rows: Sequence[Mapping[str, Any]]) -> ColumnStore:
    """A column store of rows given as header fields plus ``metadata``."""
    store = ColumnStore()
    entries = [SimpleNamespace(**{**dict.fromkeys(HEADER), "metadata": {}, **row}) for row in rows]
    store.append(cast("list[Row[Any]]", entries))
    return store


def holds(filters: Mapping[str, Any], **row: Any) -> bool:
    """Whether a filter holds for one row."""
    condition = parse(filters)
    assert condition is not None
    return bool(condition.mask(columns([row]))[0])


# ---------------------------------------------------------------- one operator on metadata.x

TABLE: list[tuple[Any, Any, bool]] = [
    # stored, operand, holds
    ("travel", "travel", True),
    ("travel", "Travel", False),
    (1, 1.0, True),
    (1.0, 1, True),
    (1, True, False),
    (True, True, True),
    (True, 1, False),
    (0, False, False),
    ("1", 1, False),
    (1, "1", False),
    ([1, 2], [1, 2], True),
    ([1, 2], [2, 1], False),
    ([1], [True], False),
    ({"a": 1}, {"a": 1.0}, True),
    ({"a": 1}, {"a": True}, False),
    ({"a": 1}, {"a": 1, "b": 2}, False),
    (None, None, False),
    ("a", {"$eq": "a"}, True),
    ("a", {"$eq": "b"}, False),
    ("a", {"$ne": "b"}, True),
    ("a", {"$ne": "a"}, False),
    (1, {"$ne": True}, True),
    ("a", {"$in": ["a", "b"]}, True),
    ("a", {"$in": ("b",)}, False),
    ("a", {"$in": []}, False),
    (1, {"$in": [True]}, False),
    ([1], {"$in": [[1]]}, True),
    ("a", {"$nin": ["b"]}, True),
    ("a", {"$nin": ["a"]}, False),
    ("a", {"$nin": []}, True),
    (5, {"$gt": 4}, True),
    (5, {"$gt": 5}, False),
    (5, {"$gte": 5.0}, True),
    (5, {"$lt": 5.5}, True),
    (5, {"$lte": 4}, False),
    (5, {"$gt": 1, "$lt": 9}, True),
    (5, {"$gt": 1, "$lt": 3}, False),
    ("b", {"$gt": "a"}, True),
    ("b", {"$gt": 1}, False),
    (5, {"$gt": "1"}, False),
    (True, {"$gt": 0}, False),
    ([5], {"$gt": 1}, False),
    ("2026-05-08", {"$gte": "2026-05-01", "$lt": "2026-06-01"}, True),
    (10**400, {"$gt": 1.5}, True),
    ("hello world", {"$contains": "lo wo"}, True),
    ("hello", {"$contains": "Lo"}, False),
    ("5", {"$contains": 5}, False),
    (["a", "b"], {"$contains": "a"}, True),
    (["ab"], {"$contains": "a"}, False),
    ([1], {"$contains": True}, False),
    ([[1]], {"$contains": [1]}, True),
    (5, {"$contains": 5}, False),
    ({"a": 1}, {"$contains": "a"}, False),
    ({"$x": 1}, {"$eq": {"$x": 1}}, True),
]


@pytest.mark.parametrize(("stored", "operand", "expected"), TABLE)
def test_operator(stored: Any, operand: Any, expected: bool) -> None:
    assert holds({"metadata.x": operand}, metadata={"x": stored}) is expected


@pytest.mark.parametrize(
    ("operand", "expected"),
    [
        ("a", False),
        (None, False),
        ({"$eq": "a"}, False),
        ({"$ne": "a"}, True),
        ({"$in": ["a"]}, False),
        ({"$nin": ["a"]}, True),
        ({"$gt": 0}, False),
        ({"$lte": 0}, False),
        ({"$contains": "a"}, False),
    ],
)
@pytest.mark.parametrize("metadata", [{}, {"x": None}, {"y": "a"}])
def test_missing_field(operand: Any, expected: bool, metadata: dict[str, Any]) -> None:
    """A missing field equals nothing, and so does ``null``."""
    assert holds({"metadata.x": operand}, metadata=metadata) is expected


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"a": {"b": {"c": 1}}}, True),
        ({"a.b.c": 1}, True),
        ({"a.b.c": 2, "a": {"b": {"c": 1}}}, False),  # the whole name comes first
        ({"a": {"b.c": 1}}, False),
        ({"a": {"b": 1}}, False),
        ({"a": [{"b": {"c": 1}}]}, False),
    ],
)
def test_nested_metadata(metadata: dict[str, Any], expected: bool) -> None:
    assert holds({"metadata.a.b.c": 1}, metadata=metadata) is expected


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"metadata.x": 1, "metadata.y": 2}, True),
        ({"metadata.x": 1, "metadata.y": 3}, False),
        ({"$and": [{"metadata.x": 1}, {"metadata.y": 2}]}, True),
        ({"$or": [{"metadata.x": 9}, {"metadata.y": 2}]}, True),
        ({"$or": [{"metadata.x": 9}, {"metadata.y": 9}]}, False),
        ({"$not": {"metadata.x": 1}}, False),
        ({"$not": {"$not": {"metadata.x": 1}}}, True),
        ({"$not": {"metadata.z": {"$gt": 1}}}, True),
        ({"metadata.x": 1, "$or": [{"metadata.y": 2}, {"metadata.y": 3}]}, True),
        ({"metadata.x": 1, "$not": {"metadata.y": 2}}, False),
        ({"$and": ({"metadata.x": 1},)}, True),
    ],
)
def test_combinators(filters: dict[str, Any], expected: bool) -> None:
    assert holds(filters, metadata={"x": 1, "y": 2}) is expected


@pytest.mark.parametrize("field", ["agent_id", "run_id", "author", "state"])
def test_header_field(field: str) -> None:
    assert holds({field: "a"}, **{field: "a"})
    assert not holds({field: "a"}, **{field: "b"})
    assert not holds({field: "a"})


@pytest.mark.parametrize("field", ["event_time", "created_at", "expires_at"])
@pytest.mark.parametrize(
    ("operand", "expected"),
    [
        ("2026-05-08", True),
        ("2026-05-08T02:00:00+02:00", True),
        (datetime(2026, 5, 8, tzinfo=UTC), True),
        ({"$gt": "2026-05-07"}, True),
        ({"$gte": "2026-05-08", "$lt": "2026-05-09"}, True),
        ({"$lt": datetime(2026, 5, 8, tzinfo=UTC)}, False),
        ({"$in": ["2026-05-07", "2026-05-08"]}, True),
        ({"$nin": ["2026-05-08"]}, False),
        ({"$ne": "2026-05-09"}, True),
    ],
)
def test_time_field(field: str, operand: Any, expected: bool) -> None:
    assert holds({field: operand}, **{field: MAY_8}) is expected


@pytest.mark.parametrize("filters", [None, {}])
def test_no_restriction(filters: dict[str, Any] | None) -> None:
    assert parse(filters) is None


def test_depth_is_bounded() -> None:
    filters: dict[str, Any] = {"metadata.x": 1}
    for _ in range(MAX_DEPTH):
        filters = {"$not": filters}
    assert parse(filters) is not None
    with pytest.raises(InvalidFilter, match="deep"):
        parse({"$not": filters})


def test_columns_keep_up_with_rows() -> None:
    """A field coded for an earlier filter takes in the rows that follow."""
    store = columns([{"metadata": {"x": 1}}])
    condition = parse({"metadata.x": 2})
    assert condition is not None
    assert condition.mask(store).tolist() == [False]
    store.append(cast("list[Row[Any]]", [SimpleNamespace(**dict.fromkeys(HEADER), metadata={"x": 2})]))
    assert condition.mask(store).tolist() == [False, True]


# ---------------------------------------------------------------- against a naive evaluator

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, 1.0, 1.5, "", "a", "ab", "b"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xy"), inner, max_size=2),
    max_leaves=4,
)
FIELDS = st.sampled_from(["metadata.x", "metadata.y", "metadata.x.y", "agent_id", "event_time"])
ORDERED_OPERANDS = st.integers(-2, 2) | st.sampled_from([0.5, "", "a", "b"])
TIMES = st.sampled_from(["2026-05-07", "2026-05-08", "2026-05-09"])


@st.composite
def one_field(draw: st.DrawFn) -> dict[str, Any]:
    field = draw(FIELDS)
    values = TIMES if field == "event_time" else JSON_VALUES
    ordered = TIMES if field == "event_time" else ORDERED_OPERANDS
    operators = st.fixed_dictionaries(
        {},
        optional={
            "$eq": values,
            "$ne": values,
            "$in": st.lists(values, max_size=2),
            "$nin": st.lists(values, max_size=2),
            "$gt": ordered,
            "$gte": ordered,
            "$lt": ordered,
            "$lte": ordered,
            "$contains": values,
        },
    ).filter(bool)
    return {field: draw(operators | values)}


FILTERS = st.recursive(
    one_field(),
    lambda inner: st.one_of(
        st.builds(lambda parts: {"$and": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda parts: {"$or": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda part: {"$not": part}, inner),
    ),
    max_leaves=5,
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {"metadata": st.dictionaries(st.sampled_from(["x", "y", "x.y"]), JSON_VALUES, max_size=3)},
        optional={"agent_id": st.sampled_from("ab"), "event_time": st.sampled_from([MAY_8, MAY_9])},
    ),
    min_size=1,
    max_size=5,
)


@given(filters=FILTERS, rows=ROWS)
def test_mask_agrees_with_naive_evaluation(filters: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    condition = parse(filters)
    assert condition is not None
    assert condition.mask(columns(rows)).tolist() == [naive(filters, row) for row in rows]


def naive(filters: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    return all(naive_entry(key, value, row) for key, value in filters.items())


def naive_entry(key: str, value: Any, row: Mapping[str, Any]) -> bool:
    if key == "$and":
        return all(naive(part, row) for part in value)
    if key == "$or":
        return any(naive(part, row) for part in value)
    if key == "$not":
        return not naive(value, row)
    operators = isinstance(value, dict) and any(name.startswith("$") for name in value)
    tests = value if operators else {"$eq": value}
    return all(naive_test(key, operator, operand, row) for operator, operand in tests.items())


def naive_test(field: str, operator: str, operand: Any, row: Mapping[str, Any]) -> bool:
    stored = naive_value(field, row)
    if field == "event_time":
        operand = [micros(item) for item in operand] if isinstance(operand, list) else micros(operand)
    if stored is None:
        return operator in ("$ne", "$nin")
    match operator:
        case "$eq" | "$ne":
            return (canonical(stored) == canonical(operand)) == (operator == "$eq")
        case "$in" | "$nin":
            found = canonical(stored) in [canonical(item) for item in operand]
            return found == (operator == "$in")
        case "$contains" if isinstance(stored, str):
            return isinstance(operand, str) and operand in stored
        case "$contains":
            return isinstance(stored, list) and canonical(operand) in map(canonical, stored)
    return naive_order(operator, stored, operand)


def naive_order(operator: str, stored: Any, operand: Any) -> bool:
    if not (type(stored) in (int, float) and type(operand) in (int, float)) and not (
        type(stored) is str and type(operand) is str
    ):
        return False
    sign = (stored > operand) - (stored < operand)
    return sign in {"$gt": (1,), "$gte": (0, 1), "$lt": (-1,), "$lte": (-1, 0)}[operator]


def naive_value(field: str, row: Mapping[str, Any]) -> Any:
    if not field.startswith("metadata."):
        return row.get(field)
    path, value = field.removeprefix("metadata."), row["metadata"]
    if path in value:
        return value[path]
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def canonical(value: Any) -> str:
    """JSON text in which equal numbers look equal and truth is no number."""
    return json.dumps(value, sort_keys=True).replace(".0", "") if not isinstance(value, str) else repr(value)


def micros(text: str) -> int:
    return to_us(datetime.fromisoformat(text).replace(tzinfo=UTC))


# ---------------------------------------------------------------- in a recall


@pytest.mark.parametrize("index_threshold", [1_000_000, 1_000])
def test_selective_filter_fills_top_k(data_folder: Any, embedder: Embedder, index_threshold: int) -> None:
    """Thousands of better memories outside the filter do not crowd out the few inside."""
    items = [{"text": f"the red cat sat {n}", "metadata": {"topic": "pets"}} for n in range(3_000)]
    items += [{"text": f"taxes of year {n}", "metadata": {"topic": "money"}} for n in range(5)]
    settings = Settings(home=data_folder, index_threshold=index_threshold)
    with MemoryOS(settings, embedder) as engine:
        engine.store_many(Scope(), items)
        engine.relay.drain()
        found = engine.recall(Scope(), "where sat the red cat?", top_k=5, filters={"metadata.topic": "money"})
    assert [hit.metadata for hit in found.hits] == [{"topic": "money"}] * 5


def test_filter_by_every_field(memory: Memory) -> None:
    before = datetime.now(UTC)
    kept = memory.store(
        "Ann: the cat sleeps",
        agent_id="a1",
        run_id="r1",
        metadata={"place": {"room": "kitchen"}},
        event_time="2026-05-08T12:00:00",
        expires_at="2999-01-01",
    )
    memory.store("Bob: the cat eats", agent_id="a2", run_id="r2", event_time="2026-05-10")
    filters: dict[str, Any] = {
        "agent_id": "a1",
        "run_id": {"$in": ["r1", "r9"]},
        "author": "Ann",
        "state": {"$ne": "archived"},
        "metadata.place.room": {"$contains": "itch"},
        "event_time": {"$gte": "2026-05-08", "$lt": "2026-05-09"},
        "created_at": {"$gte": before},
        "expires_at": {"$gt": "2998-01-01"},
    }
    for field, operand in filters.items():
        hits = memory.recall("cat", filters={field: operand}).hits
        assert kept.id in [hit.id for hit in hits], field
    assert [hit.id for hit in memory.recall("cat", filters=filters).hits] == [kept.id]
    assert [hit.id for hit in memory.recall("cat", filters={"$not": filters}).hits] != [kept.id]


def test_filter_sees_the_new_metadata(memory: Memory) -> None:
    cube = memory.store("the cat", metadata={"x": 1})
    memory.update(cube.id, metadata={"x": 2})
    assert memory.recall("cat", filters={"metadata.x": 1}).hits == ()
    assert len(memory.recall("cat", filters={"metadata.x": 2}).hits) == 1


def test_filter_without_a_match(memory: Memory) -> None:
    memory.store("the cat")
    found = memory.recall("cat", filters={"metadata.x": 1})
    assert (found.hits, found.context) == ((), "")


def test_mask_is_boolean() -> None:
    condition = parse({"$and": [{"metadata.x": 1}, {"$not": {"metadata.x": 2}}]})
    assert condition is not None
    assert condition.mask(columns([])).dtype == np.bool_
