"""Exports come back as they were."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memos.config import Settings
from memos.cube import Descriptor, Governance, Scope, State
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.errors import ImportRefused
from memos.ids import new_id
from memos.store.jobs import FINAL
from memos.transfer.record import VERSION, Header, LinkRecord, MemoryRecord, VersionRecord
from memos.transfer.restore import twin

Write = Callable[[str, str | bytes], Path]
NOW = datetime(2025, 1, 9, 19, 42, tzinfo=UTC)


def version(text: str, number: int = 1, **more: Any) -> VersionRecord:
    fields = {"version": number, "text": text, "metadata": {}, "valid_from": NOW, "created_at": NOW}
    return VersionRecord(**{**fields, **more})


def record(*versions: VersionRecord, **more: Any) -> MemoryRecord:
    fields = {
        "id": new_id(),
        "state": State.ACTIVATED,
        "source": "api",
        "infer": False,
        "created_at": NOW,
        "updated_at": NOW,
        "versions": versions,
    }
    return MemoryRecord(**{**fields, **more})


def link(target: MemoryRecord, **more: Any) -> LinkRecord:
    fields = {"target_id": target.id, "type": "semantic", "score": 0.5, "author": "test"}
    versions = {"source_version": 1, "target_version": 1, "created_at": NOW}
    return LinkRecord(**{**fields, **versions, **more})


def file_of(*records: MemoryRecord, memories: int | None = None) -> str:
    count = len(records) if memories is None else memories
    header = Header(created_at=NOW, user_id="ann", memories=count)
    return "".join(f"{line.model_dump_json()}\n" for line in (header, *records))


def exported(engine: MemoryOS, scope: Scope, folder: Path) -> list[MemoryRecord]:
    path = folder / f"{new_id()}.jsonl"
    engine.export(scope, path)
    return [MemoryRecord.model_validate_json(line) for line in path.read_bytes().split(b"\n")[1:-1]]


@contextmanager
def another(folder: Path, embedder: Embedder) -> Iterator[MemoryOS]:
    with MemoryOS(Settings(home=folder), embedder) as opened:
        yield opened


# --------------------------------------------------------------------------------------------------
# Round trips


def test_store_survives_journey(engine: MemoryOS, scope: Scope, tmp_path: Path, embedder: Embedder) -> None:
    first, second = engine.store_many(
        scope,
        [
            {"text": "Ann: I live in Leeds", "metadata": {"n": [1, None, "ü\u2028"]}},
            {"text": "cat", "event_time": "2025-01-09T19:42:00.123456+01:00", "agent_id": "a"},
        ],
    )
    engine.update("default", first.id, text="Ann: I live in Bath")
    engine.move("default", second.id, State.ARCHIVED)
    path = tmp_path / "out.jsonl"
    engine.export(scope, path)
    with another(tmp_path / "other", embedder) as other:
        report = other.import_(scope, path, strict=True)
        assert (report.format, report.imported, report.skipped) == ("memos-export", 2, 0)
        assert exported(other, scope, tmp_path) == exported(engine, scope, tmp_path)
        assert other.list(scope) == engine.list(scope)
        assert other.history("default", first.id) == engine.history("default", first.id)
        assert other.stats(scope) == engine.stats(scope)
        hits = other.recall(scope, "where does Ann live in?").hits
        assert [hit.text for hit in hits] == ["Ann: I live in Bath"]


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40).filter(
    str.strip
)
times = st.datetimes(datetime(1000, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
names = st.none() | st.from_regex(r"[a-zé][a-zé /.-]{0,20}[a-zé]", fullmatch=True)
metadata = st.dictionaries(
    texts,
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=5,
    ),
    max_size=3,
)
descriptors = st.builds(
    Descriptor,
    title=st.none() | texts,
    keywords=st.lists(texts, max_size=3).map(tuple),
    tags=st.lists(texts, max_size=3).map(tuple),
    context=st.none() | texts,
    language=st.sampled_from([None, "en"]),
)


@st.composite
def memories(draw: st.DrawFn) -> MemoryRecord:
    numbers = sorted(draw(st.sets(st.integers(1, 9), min_size=1, max_size=3)))
    versions = [
        version(
            draw(texts),
            number,
            metadata=draw(metadata),
            descriptor=draw(descriptors),
            event_time=draw(st.none() | times),
            valid_from=draw(times),
            created_at=draw(times),
            author=draw(names),
            reason=draw(st.none() | texts),
        )
        for number in numbers
    ]
    return record(
        *versions,
        state=draw(st.sampled_from(State)),
        agent_id=draw(names),
        run_id=draw(names),
        author=draw(names),
        infer=draw(st.booleans()),
        governance=Governance(pinned=draw(st.booleans()), frozen=draw(st.booleans()), acl=tuple(draw(st.lists(texts)))),
        created_at=draw(times),
        updated_at=draw(times),
        valid_to=draw(st.none() | times),
        expires_at=draw(st.none() | times),
    )


@given(st.lists(memories(), min_size=1, max_size=4), st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_record_survives_journey(
    engine: MemoryOS, tmp_path: Path, records: list[MemoryRecord], data: st.DataObject
) -> None:
    """Import, export, forget all, import the export, export: the same each time."""
    scope = Scope(user_id=new_id())
    target = data.draw(st.sampled_from(records))
    score = data.draw(st.floats(0, 1))
    records[0] = records[0].model_copy(update={"links": (link(target, score=score),)})
    path = tmp_path / "records.jsonl"
    path.write_text(file_of(*records), encoding="utf-8")
    assert engine.import_(scope, path, strict=True).imported == len(records)
    first = exported(engine, scope, tmp_path)
    assert first == sorted(records, key=lambda each: each.id)
    engine.forget_all(scope)
    path.write_text(file_of(*first), encoding="utf-8")
    engine.import_(scope, path, strict=True)
    assert exported(engine, scope, tmp_path) == first


# --------------------------------------------------------------------------------------------------
# Ids that are taken


def test_second_import_changes_nothing(engine: MemoryOS, scope: Scope, write: Write) -> None:
    path = write("x.jsonl", file_of(record(version("one")), record(version("two"))))
    assert engine.import_(scope, path).imported == 2
    again = engine.import_(scope, path)
    assert (again.imported, again.skipped, engine.stats(scope).memories) == (0, 2, 2)


def test_import_adds_what_is_missing(engine: MemoryOS, scope: Scope, write: Write) -> None:
    one, two = record(version("one")), record(version("two"))
    one = one.model_copy(update={"links": (link(two),)})
    path = write("x.jsonl", file_of(one, two))
    engine.import_(scope, path)
    engine.forget("default", two.id)
    report = engine.import_(scope, path)
    assert (report.imported, report.skipped) == (1, 1)
    assert [each.target_id for each in engine.links("default", one.id)] == [two.id]
    assert engine.recall(scope, "two").hits[0].text == "two"


def test_import_does_not_overwrite(engine: MemoryOS, scope: Scope, write: Write) -> None:
    one = record(version("one"))
    path = write("x.jsonl", file_of(one))
    engine.import_(scope, path)
    engine.update("default", one.id, text="changed since")
    engine.import_(scope, path)
    assert engine.get("default", one.id).text == "changed since"


def test_id_of_another_user_is_replaced(engine: MemoryOS, scope: Scope, write: Write) -> None:
    one, two = record(version("one")), record(version("two"))
    one = one.model_copy(update={"links": (link(two), link(one, type="self"))})
    path = write("x.jsonl", file_of(one, two))
    engine.import_(scope, path)
    bob = Scope(user_id="bob")
    assert engine.import_(bob, path).imported == 2
    first, second = engine.list(bob)
    assert (first.id, second.id) == (twin(one.id, bob), twin(two.id, bob))
    assert (first.text, second.text) == ("one", "two")
    ends = {(each.source_id, each.target_id) for each in engine.links("default", first.id)}
    assert ends == {(first.id, second.id), (first.id, first.id)}
    assert engine.import_(bob, path).skipped == 2
    assert engine.stats(scope).links == 2


def test_link_to_memory_outside_is_dropped(engine: MemoryOS, scope: Scope, write: Write) -> None:
    stranger = record(version("not here"))
    engine.import_(Scope(user_id="bob"), write("b.jsonl", file_of(stranger)))
    one = record(version("one"), links=(link(stranger),))
    assert engine.import_(scope, write("x.jsonl", file_of(one)), strict=True).imported == 1
    assert list(engine.links("default", one.id)) == []


# --------------------------------------------------------------------------------------------------
# Damaged exports


FIXED = "01a20763-8285-7b44-87bd-1b104661a13a"


def broken(**change: Any) -> str:
    good = json.loads(record(version("bad one"), id=FIXED).model_dump_json())
    return json.dumps({**good, **change})


OLD = json.loads(version("x").model_dump_json())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "EOF"),
        ("[]", "object"),
        (broken(id="7"), "id"),
        (broken(state="asleep"), "state"),
        (broken(versions=[]), "versions"),
        (broken(versions=[OLD, OLD]), "versions"),
        (broken(versions=[{**OLD, "text": " "}]), "empty"),
        (broken(versions=[{**OLD, "text": "a\0b"}]), "NUL"),
        (broken(versions=[{**OLD, "text": 5}]), "string"),
        (broken(versions=[{**OLD, "metadata": []}]), "metadata"),
        (broken(versions=[{**OLD, "created_at": "2025-01-09T19:42:00"}]), "created_at"),
        (broken(surprise=1), "surprise"),
        (broken(run_id="a\nb"), "run_id"),
        ('{"id": "\\ud800"}', "JSON"),
    ],
)
def test_bad_record_is_left_out(engine: MemoryOS, scope: Scope, write: Write, line: str, reason: str) -> None:
    one, two = record(version("one")), record(version("two"))
    header, first, second = file_of(one, two, memories=3).splitlines()
    path = write("x.jsonl", "\n".join([header, first, line, second]))
    report = engine.import_(scope, path)
    assert (report.imported, [each.line for each in report.rejected]) == (2, [3])
    assert reason in report.rejected[0].reason
    engine.forget_all(scope)
    with pytest.raises(ImportRefused) as refusal:
        engine.import_(scope, path, strict=True)
    assert refusal.value.extra["line"] == 3
    assert engine.stats(scope).memories == 0


def test_cut_export_is_noticed(engine: MemoryOS, scope: Scope, write: Write) -> None:
    path = write("x.jsonl", file_of(record(version("one")), memories=2))
    report = engine.import_(scope, path)
    assert report.imported == 1
    assert [each.line for each in report.rejected] == [3]
    with pytest.raises(ImportRefused, match="not whole"):
        engine.import_(Scope(user_id="bob"), path, strict=True)


def test_repeated_id_is_left_out(engine: MemoryOS, scope: Scope, write: Write) -> None:
    one = record(version("one"))
    report = engine.import_(scope, write("x.jsonl", file_of(one, one)))
    assert (report.imported, [each.line for each in report.rejected]) == (1, [3])


@pytest.mark.parametrize("change", [f'"version":{VERSION},', '"memories":0'])
def test_header_of_later_version_is_refused(engine: MemoryOS, scope: Scope, write: Write, change: str) -> None:
    later = f'"version":{VERSION + 1},' if "version" in change else '"memories":-1'
    path = write("x.jsonl", file_of().replace(change, later))
    with pytest.raises(ImportRefused, match="line 1"):
        engine.import_(scope, path)


def test_text_over_limit_is_left_out(tmp_path: Path, embedder: Embedder, scope: Scope, write: Write) -> None:
    path = write("x.jsonl", file_of(record(version("far too long"))))
    small = Settings(home=tmp_path / "small", max_text_bytes=5)
    with MemoryOS(small, embedder) as engine:
        assert [each.line for each in engine.import_(scope, path).rejected] == [2]


def test_notes_travel(tmp_path: Path, embedder: Embedder, scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEMOS_NOTES")
    texts = ("I live in Rome.", "I live in Rome", "I moved from Rome to Oslo.")
    with MemoryOS(Settings(home=tmp_path / "one"), embedder) as engine:
        ids = [engine.store_many(scope, [{"text": text}])[0].id for text in texts]
        until_written(engine, scope)
        before = [engine.get(scope.tenant, cube_id) for cube_id in ids]
        histories = [engine.history(scope.tenant, cube_id) for cube_id in ids]
        links = engine.links(scope.tenant, ids[0])
        engine.export(scope, tmp_path / "notes.jsonl")
    assert [cube.state for cube in before] == [State.ACTIVATED, State.ARCHIVED, State.ACTIVATED]
    with MemoryOS(Settings(home=tmp_path / "two"), embedder) as engine:
        engine.import_(scope, tmp_path / "notes.jsonl")
        until_written(engine, scope)
        assert [engine.get(scope.tenant, cube_id) for cube_id in ids] == before
        assert [engine.history(scope.tenant, cube_id) for cube_id in ids] == histories
        assert engine.links(scope.tenant, ids[0]) == links
        with engine.database.read() as connection:
            missing = connection.exec_driver_sql("SELECT count(*) FROM vectors WHERE enriched IS NULL").scalar()
        assert missing == 0


def until_written(engine: MemoryOS, scope: Scope) -> None:
    """Wait until every note is written."""
    job = engine.refine(scope)
    deadline = time.monotonic() + 60
    while job.state not in FINAL and time.monotonic() < deadline:
        time.sleep(0.01)
        job = engine.job(scope.tenant, job.id)
