"""The registry on a real store and the bundled model: versions, isolation, unlearning, and what is refused."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from memos.clock import now_us
from memos.config import Settings
from memos.cube import Kind, MemCube, Scope, State
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.errors import AdapterRefused, Conflict, InvalidInput, NotFound, StoreFull
from memos.parametric.adapter import Adapter, Factors
from memos.parametric.cartridge import TrainedCartridge
from memos.parametric.checks import Frame, check
from memos.parametric.peft_folder import write_folder
from memos.runtime.host import ModelHost
from memos.schedule.task import Report
from memos.store import namespaces
from memos.store.leases import LeaseRepository
from memos.store.scoped import unfinished_jobs

pytestmark = pytest.mark.timeout(300)  # the first one loads the model

SCOPE = Scope(user_id="u")
OTHER_USER = Scope(user_id="v")
OTHER_TENANT = Scope(tenant="other", user_id="u")
Make = Callable[..., Any]
Publish = Callable[..., str]
Store = Callable[..., list[MemCube]]


def files_in(folder: Path) -> list[Path]:
    return sorted((folder / "adapters").rglob("*.safetensors"))


def waiting(engine: MemoryOS) -> list[tuple[str, dict[str, Any]]]:
    """Return task and payload of every job that waits."""
    with engine.database.write() as connection:
        found = []
        for scope, job_id in unfinished_jobs(connection):
            namespace = namespaces.open_for_write(connection, scope)
            lease = LeaseRepository(connection, namespace.id).take(scope, job_id)
            assert lease is not None
            found.append((lease.task, dict(lease.payload)))
    return found


@pytest.fixture
def idle(registry: MemoryOS) -> MemoryOS:
    """The engine without its executor: jobs wait."""
    registry._jobs.stop()
    return registry


# ------------------------------------------------------------ publication


def test_published_adapter_is_found_and_loaded(
    registry: MemoryOS, stored: Store, published: Publish, random_adapter: Make, frame: Frame
) -> None:
    one, two, other = stored(registry, "one", "two", "other")
    adapter = random_adapter(ranks=(1, 4))
    cube_id = published(registry, adapter, one, two, name="facts")
    (record,) = registry.parametric.published(SCOPE, frame.base, [two.id])
    assert (record.cube_id, record.rank, record.version, record.name) == (cube_id, 4, 1, "facts")
    assert registry.parametric.load(SCOPE, record).digest == adapter.digest
    assert registry.parametric.published(SCOPE, frame.base, [other.id]) == []
    assert registry.parametric.published(SCOPE, "0" * 64) == []
    assert registry.parametric.published(SCOPE, frame.base) == [record]
    assert registry.parametric.named(SCOPE, cube_id) == record


def test_cube_and_listing_describe_it(
    registry: MemoryOS, stored: Store, published: Publish, random_cartridge: Make
) -> None:
    one, two = stored(registry, "one", "two")
    cube_id = published(registry, random_cartridge(tokens=5), two, one)
    cube = registry.get("default", cube_id)
    assert (cube.kind, cube.state, cube.text) == (Kind.PARAMETRIC, State.ACTIVATED, None)
    assert [parent.cube_id for parent in cube.provenance.parents] == [two.id, one.id]
    (listed,) = registry.adapters(SCOPE)
    assert listed == registry.adapter("default", cube_id)
    assert (listed.payload, listed.tokens, listed.rank, listed.state) == ("cartridge", 5, 0, "published")
    assert (listed.gate, listed.provenance) == ({"passed": True}, {"options": {"epochs": 3}})
    assert listed.bytes == registry.parametric.usage() == registry.stats(SCOPE).adapter_bytes
    registry.parametric.count_use(SCOPE, [cube_id])
    assert (registry.stats(SCOPE).adapters, registry.stats(SCOPE).adapter_hits) == (1, 1)
    assert [note.id for note in registry.list(SCOPE)] == [one.id, two.id]
    assert registry.doctor().healthy


def test_rejected_one_is_a_report_and_nothing_else(
    registry: MemoryOS, stored: Store, random_adapter: Make, frame: Frame, data_folder: Path, tmp_path: Path
) -> None:
    (note,) = stored(registry, "one")
    gate = {"passed": False, "kl": math.nan, "losses": [1.0, math.inf]}
    cube_id = registry.parametric.reject(
        SCOPE, random_adapter(), sources=[(note.id, 1)], gate=gate, provenance={"options": {}}
    )
    shown = registry.adapter("default", cube_id)
    assert (shown.state, shown.bytes) == ("rejected", 0)
    assert shown.gate == {"passed": False, "kl": None, "losses": [1.0, None]}
    assert registry.parametric.published(SCOPE, frame.base, [note.id]) == []
    assert (files_in(data_folder), registry.stats(SCOPE).adapters) == ([], 0)
    with pytest.raises(Conflict, match="rejected"):
        registry.parametric.named(SCOPE, cube_id)
    with pytest.raises(AdapterRefused, match="failed its gate"):
        registry.export_adapter("default", cube_id, tmp_path / "out")
    with pytest.raises(Conflict):
        registry.rollback_adapter("default", cube_id)
    assert registry.forget("default", note.id).removed["adapters"] == 1, "the report goes with the note"


def test_same_again_is_one_cube(
    registry: MemoryOS, stored: Store, published: Publish, random_adapter: Make, data_folder: Path
) -> None:
    (note,) = stored(registry, "one")
    assert published(registry, random_adapter(), note) == published(registry, random_adapter(), note)
    assert len(registry.adapters(SCOPE)) == len(files_in(data_folder)) == 1


def test_concurrent_publications_leave_one_published(
    registry: MemoryOS, stored: Store, published: Publish, random_adapter: Make, data_folder: Path
) -> None:
    (note,) = stored(registry, "one")
    adapters = [random_adapter(seed % 4) for seed in range(8)]
    ids: list[str] = []
    threads = [threading.Thread(target=lambda one=one: ids.append(published(registry, one, note))) for one in adapters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = registry.adapters(SCOPE)
    assert (len(ids), len(set(ids)), len(found), len(files_in(data_folder))) == (8, 4, 4, 4)
    assert sorted(one.version for one in found) == [1, 2, 3, 4]
    assert [one.state for one in found].count("published") == 1


@pytest.mark.parametrize("change", ["update", "forget", "archive"])
def test_note_that_changed_meanwhile_prevents_publication(
    change: str, registry: MemoryOS, stored: Store, published: Publish, random_adapter: Make, data_folder: Path
) -> None:
    (note,) = stored(registry, "one")
    if change == "update":
        registry.update("default", note.id, text="one, changed")
    elif change == "forget":
        registry.forget("default", note.id)
    else:
        registry.move("default", note.id, State.ACTIVATED)
        registry.move("default", note.id, State.ARCHIVED)
    with pytest.raises(Conflict):
        published(registry, random_adapter(), note)
    assert (registry.adapters(SCOPE), files_in(data_folder)) == ([], [])


# ------------------------------------------------------------ refused


def edited(adapter: Adapter, **change: Any) -> Adapter:
    place, factors = next(iter(adapter.factors.items()))
    return Adapter(adapter.base, {**adapter.factors, place: replace(factors, **change)})


def poisoned(adapter: Adapter, value: float) -> Adapter:
    factors = next(iter(adapter.factors.values()))
    up = factors.up.clone()
    up[3, 1] = value
    return edited(adapter, up=up)


BAD: dict[str, Callable[[Adapter], Adapter]] = {
    "another model": lambda one: Adapter("0" * 64, one.factors),
    "nothing": lambda one: Adapter(one.base, {}),
    "NaN": lambda one: poisoned(one, math.nan),
    "infinite": lambda one: poisoned(one, -math.inf),
    "infinite scaling": lambda one: edited(one, scaling=math.inf),
    "beyond the layers": lambda one: Adapter(one.base, {(30, "mlp.up_proj"): next(iter(one.factors.values()))}),
    "not a projection": lambda one: Adapter(
        one.base, {(0, "mlp.up_proj"): Factors(torch.ones(1, 9), torch.ones(9, 1))}
    ),
    "transposed": lambda one: edited(one, down=torch.ones(576, 2)),
    "beyond the rank": lambda one: edited(one, down=torch.ones(257, 576), up=torch.ones(1536, 257)),
    "no rank": lambda one: edited(one, down=torch.ones(0, 576), up=torch.ones(1536, 0)),
    "ranks that differ": lambda one: edited(one, down=torch.ones(3, 576)),
    "dtypes that differ": lambda one: edited(one, down=torch.ones(2, 576, dtype=torch.float16)),
    "double": lambda one: edited(
        one, down=torch.ones(2, 576, dtype=torch.float64), up=torch.ones(1536, 2, dtype=torch.float64)
    ),
}


@pytest.mark.parametrize("make", BAD.values(), ids=list(BAD))
def test_bad_adapter_is_refused_and_leaves_nothing(
    make: Callable[[Adapter], Adapter],
    registry: MemoryOS,
    stored: Store,
    published: Publish,
    random_adapter: Make,
    data_folder: Path,
) -> None:
    (note,) = stored(registry, "one")
    with pytest.raises(AdapterRefused):
        published(registry, make(random_adapter()), note)
    assert (registry.adapters(SCOPE), files_in(data_folder)) == ([], [])


def test_bad_cartridge_is_refused(random_cartridge: Make, frame: Frame) -> None:
    good: TrainedCartridge = random_cartridge()
    check(good, frame, 1)
    data = good.kv.data
    for bad in (data[:5], data[:, :, :, :0], data.half(), torch.where(data > 2, math.nan, data)):
        with pytest.raises(AdapterRefused):
            check(TrainedCartridge(good.base, replace(good.kv, data=bad)), frame, 1)


def test_full_disk_leaves_nothing(
    data_folder: Path, embedder: Embedder, models: ModelHost, stored: Store, published: Publish, random_adapter: Make
) -> None:
    with MemoryOS(Settings(home=data_folder, adapter_bytes=1_000), embedder, models) as engine:
        (note,) = stored(engine, "one")
        with pytest.raises(StoreFull, match="memos adapters rm"):
            published(engine, random_adapter(), note)
        assert (engine.adapters(SCOPE), files_in(data_folder)) == ([], [])


@pytest.mark.parametrize("name", ["", " x", "a\0b", "x" * 257])
def test_bad_name_is_refused(name: str, registry: MemoryOS, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        registry.import_adapter(SCOPE, tmp_path, name=name)


# ------------------------------------------------------------ import and export


def test_import_is_used_by_name_alone(
    registry: MemoryOS, stored: Store, random_adapter: Make, frame: Frame, tmp_path: Path
) -> None:
    stored(registry, "one")
    adapter = random_adapter()
    write_folder(adapter, tmp_path / "peft")
    info = registry.import_adapter(SCOPE, tmp_path / "peft", name="style")
    assert (info.digest, info.parents, info.gate, info.name) == (adapter.digest, (), None, "style")
    assert info.provenance["source"] == "import"
    assert "none" in info.provenance["lineage"]
    assert registry.get("default", info.cube_id).provenance.source == "import"
    assert registry.parametric.published(SCOPE, frame.base) == []
    record = registry.parametric.named(SCOPE, info.cube_id)
    assert registry.parametric.load(SCOPE, record).digest == adapter.digest
    assert registry.import_adapter(SCOPE, tmp_path / "peft", name="style").cube_id == info.cube_id
    registry.export_adapter("default", info.cube_id, tmp_path / "again")
    assert registry.import_adapter(SCOPE, tmp_path / "again").digest == adapter.digest


def test_bad_import_leaves_nothing(registry: MemoryOS, random_adapter: Make, data_folder: Path, tmp_path: Path) -> None:
    write_folder(poisoned(random_adapter(), math.nan), tmp_path / "peft")
    with pytest.raises(AdapterRefused, match="not finite"):
        registry.import_adapter(SCOPE, tmp_path / "peft")
    assert (registry.adapters(SCOPE), files_in(data_folder)) == ([], [])


def test_exported_adapter_is_named_by_receipts(
    registry: MemoryOS, stored: Store, published: Publish, random_adapter: Make, tmp_path: Path
) -> None:
    """Of the memories it was made from, and of no others."""
    note, other = stored(registry, "one", "other")
    cube_id = published(registry, random_adapter(), note)
    registry.export_adapter("default", cube_id, tmp_path / "out")
    with pytest.raises(InvalidInput):
        registry.export_adapter("default", cube_id, tmp_path / "out")  # it is not empty any more
    (export,) = registry.forget("default", note.id).exports
    assert (export.kind, export.memories, export.path_digest is None) == ("adapter", 1, False)
    assert registry.forget("default", other.id).exports == ()


def test_cartridge_cannot_be_exported(
    registry: MemoryOS, stored: Store, published: Publish, random_cartridge: Make, tmp_path: Path
) -> None:
    cube_id = published(registry, random_cartridge(), *stored(registry, "one"))
    with pytest.raises(InvalidInput, match="cartridge"):
        registry.export_adapter("default", cube_id, tmp_path / "out")


# ------------------------------------------------------------ versions


def test_rollback_brings_the_version_before_back(
    registry: MemoryOS, stored: Store, published: Publish, random_adapter: Make, frame: Frame
) -> None:
    notes = stored(registry, "one", "two")
    first, second = (published(registry, random_adapter(seed), *notes) for seed in (1, 2))
    elsewhere = published(registry, random_adapter(3), notes[0])
    assert {one.cube_id for one in registry.parametric.published(SCOPE, frame.base)} == {second, elsewhere}
    back = registry.rollback_adapter("default", second)
    assert (back.cube_id, back.version, back.state) == (first, 1, "published")
    assert registry.get("default", second).state is State.ARCHIVED
    with pytest.raises(Conflict, match="no version before"):
        registry.rollback_adapter("default", first)
    assert registry.rollback_adapter("default", second).cube_id == second, "a superseded one is named"
    assert published(registry, random_adapter(1), *notes) == first, "equal content is that version again"
    assert registry.adapter("default", second).state == "superseded"


def test_names_and_payloads_make_series_of_their_own(
    registry: MemoryOS, stored: Store, published: Publish, random_adapter: Make, random_cartridge: Make
) -> None:
    one, two = stored(registry, "one", "two")
    published(registry, random_adapter(1), one)
    published(registry, random_cartridge(), one)
    published(registry, random_adapter(2), one, name="a")
    published(registry, random_adapter(3), two, name="a")
    states = [(info.version, info.state) for info in registry.adapters(SCOPE)]
    assert states == [(1, "published"), (1, "published"), (1, "superseded"), (2, "published")]


def test_rollback_to_a_damaged_file_changes_nothing(
    registry: MemoryOS, stored: Store, published: Publish, random_adapter: Make, data_folder: Path
) -> None:
    notes = stored(registry, "one")
    first = published(registry, random_adapter(1), *notes)
    (path,) = files_in(data_folder)
    second = published(registry, random_adapter(2), *notes)
    path.write_bytes(b"damaged")
    with pytest.raises(AdapterRefused, match=first):
        registry.rollback_adapter("default", second)
    assert registry.adapter("default", second).state == "published"


# ------------------------------------------------------------ isolation


@pytest.mark.parametrize("stranger", [OTHER_USER, OTHER_TENANT], ids=["user", "tenant"])
def test_adapter_of_another_is_out_of_reach(
    stranger: Scope,
    registry: MemoryOS,
    stored: Store,
    published: Publish,
    random_adapter: Make,
    frame: Frame,
    tmp_path: Path,
) -> None:
    notes = stored(registry, "one")
    stored(registry, "mine", scope=stranger)
    cube_id = published(registry, random_adapter(), *notes)
    record = registry.parametric.named(SCOPE, cube_id)
    who: Any = {"user_id": stranger.user_id}
    assert registry.adapters(stranger) == []
    assert registry.parametric.published(stranger, frame.base, [notes[0].id]) == []
    assert registry.stats(stranger).adapters == 0
    tries: Sequence[Callable[[], object]] = (
        lambda: registry.get(stranger.tenant, cube_id, **who),
        lambda: registry.adapter(stranger.tenant, cube_id, **who),
        lambda: registry.export_adapter(stranger.tenant, cube_id, tmp_path / "out", user_id=stranger.user_id),
        lambda: registry.remove_adapter(stranger.tenant, cube_id, **who),
        lambda: registry.demote(stranger.tenant, cube_id, **who),
        lambda: registry.rollback_adapter(stranger.tenant, cube_id, **who),
        lambda: registry.parametric.named(stranger, cube_id),
    )
    for attempt in tries:
        with pytest.raises(NotFound):
            attempt()
    with pytest.raises((NotFound, AdapterRefused)):
        registry.parametric.load(stranger, record)
    registry.parametric.count_use(stranger, [cube_id])
    registry.forget_all(stranger)
    assert registry.adapters(SCOPE)[0].hits == 0
    assert registry.parametric.load(SCOPE, record).digest == record.digest


def test_strangers_cannot_make_adapters_of_my_notes(
    registry: MemoryOS, stored: Store, published: Publish, random_adapter: Make
) -> None:
    notes = stored(registry, "one")
    stored(registry, "mine", scope=OTHER_USER)
    with pytest.raises(Conflict):
        published(registry, random_adapter(), *notes, scope=OTHER_USER)


@pytest.mark.parametrize("stranger", [OTHER_USER, OTHER_TENANT], ids=["user", "tenant"])
def test_file_swapped_in_from_another_is_refused(
    stranger: Scope, registry: MemoryOS, stored: Store, published: Publish, random_adapter: Make, data_folder: Path
) -> None:
    mine = published(registry, random_adapter(), *stored(registry, "one"))
    (my_path,) = files_in(data_folder)
    published(registry, random_adapter(), *stored(registry, "two", scope=stranger), scope=stranger)
    (their_path,) = set(files_in(data_folder)) - {my_path}
    my_path.write_bytes(their_path.read_bytes())
    with pytest.raises(AdapterRefused):
        registry.parametric.load(SCOPE, registry.parametric.named(SCOPE, mine))


def test_agents_are_served_what_is_theirs_alone(
    registry: MemoryOS, stored: Store, published: Publish, random_adapter: Make, frame: Frame
) -> None:
    (plain,) = stored(registry, "one")
    (agents,) = stored(registry, "two", agent_id="a")
    published(registry, random_adapter(1), plain, agents)
    only = published(registry, random_adapter(2), agents)
    narrow = Scope(user_id="u", agent_id="a")
    assert [one.cube_id for one in registry.parametric.published(narrow, frame.base)] == [only]


# ------------------------------------------------------------ unlearning


@pytest.mark.parametrize("change", ["update", "metadata", "forget", "archive", "forget_all", "forget_agent"])
def test_change_of_a_note_takes_its_adapters_out_at_once(
    change: str,
    idle: MemoryOS,
    stored: Store,
    published: Publish,
    random_adapter: Make,
    frame: Frame,
    data_folder: Path,
) -> None:
    one, other = stored(idle, "one", "other")
    (two,) = stored(idle, "two", agent_id="a")
    old = random_adapter(0)
    published(idle, old, one, two)
    published(idle, random_adapter(1), one, two)
    kept = published(idle, random_adapter(2), other)
    gone: list[str] = []
    idle.parametric.on_gone.append(gone.extend)
    if change == "update":
        idle.update("default", two.id, text="two, changed")
    elif change == "metadata":
        idle.update("default", two.id, metadata={"a": 1})
    elif change == "forget":
        assert idle.forget("default", two.id).removed["adapters"] == 2
    elif change == "archive":
        idle.move("default", two.id, State.ACTIVATED)
        assert gone == [], "a state that is recalled keeps it"
        idle.move("default", two.id, State.ARCHIVED)
    elif change == "forget_agent":
        idle.forget_all(Scope(user_id="u", agent_id="a"))
    else:
        idle.forget_all(SCOPE)
    left = [] if change == "forget_all" else [kept]
    assert [info.cube_id for info in idle.adapters(SCOPE)] == left
    assert len(files_in(data_folder)) == len(left)
    assert len(gone) == 3 - len(left)
    assert old.digest in gone
    again = {"forget_all": []}.get(change, [one.id, two.id] if change in ("update", "metadata") else [one.id])
    expected = [("retrain", {"epochs": 3, "ids": again, "to": "parametric", "name": None})] if again else []
    assert waiting(idle) == expected
    assert idle.doctor().healthy


def test_note_that_expires_takes_its_adapters_out_without_a_write(
    registry: MemoryOS, stored: Store, published: Publish, random_adapter: Make, frame: Frame
) -> None:
    (note,) = stored(registry, "one", expires_at="2100-01-01")
    cube_id = published(registry, random_adapter(), note)
    index = registry.parametric._index
    assert index.published(SCOPE, frame.base, None, at=now_us())
    assert index.published(SCOPE, frame.base, None, at=1 << 52) == []
    assert registry.parametric.named(SCOPE, cube_id).cube_id == cube_id


def test_what_was_removed_meanwhile_is_not_handed_out(
    registry: MemoryOS, stored: Store, published: Publish, random_adapter: Make, data_folder: Path
) -> None:
    (note,) = stored(registry, "one")
    record = registry.parametric.named(SCOPE, published(registry, random_adapter(), note))
    (path,) = files_in(data_folder)
    data = path.read_bytes()
    registry.forget("default", note.id)
    with pytest.raises(AdapterRefused, match="not there"):
        registry.parametric.load(SCOPE, record)
    path.write_bytes(data)  # as a reader has it who opened the file before
    with pytest.raises(NotFound):
        registry.parametric.load(SCOPE, record)


def test_imported_adapters_outlive_notes_but_not_their_user(
    registry: MemoryOS, stored: Store, random_adapter: Make, data_folder: Path, tmp_path: Path
) -> None:
    (note,) = stored(registry, "one")
    write_folder(random_adapter(), tmp_path / "peft")
    registry.import_adapter(SCOPE, tmp_path / "peft")
    assert registry.forget("default", note.id).removed["adapters"] == 0
    assert registry.forget_all(SCOPE).removed["adapters"] == 1
    assert files_in(data_folder) == []


def test_removal_leaves_the_notes_and_trains_nothing(
    idle: MemoryOS, stored: Store, published: Publish, random_adapter: Make, data_folder: Path
) -> None:
    notes = stored(idle, "one", "two")
    first, second = (published(idle, random_adapter(seed), *notes) for seed in (1, 2))
    gone: list[str] = []
    idle.parametric.on_gone.append(gone.extend)
    assert idle.remove_adapter("default", first).removed["adapters"] == 1
    assert idle.demote("default", second).removed["cubes"] == 0
    assert gone == [random_adapter(1).digest, random_adapter(2).digest]
    assert (len(idle.list(SCOPE)), files_in(data_folder), waiting(idle)) == (2, [], [])
    with pytest.raises(NotFound):
        idle.remove_adapter("default", notes[0].id)


def test_file_without_a_row_is_swept(
    data_folder: Path, embedder: Embedder, models: ModelHost, stored: Store, published: Publish, random_adapter: Make
) -> None:
    """A process that ends between file and row, or between the removal of the row and that of the file."""
    with MemoryOS(Settings(home=data_folder), embedder, models) as engine:
        (note,) = stored(engine, "one")
        published(engine, random_adapter(1), note)
        (kept,) = files_in(data_folder)
        published(engine, random_adapter(2), *stored(engine, "two"))
        (other,) = set(files_in(data_folder)) - {kept}
        data = other.read_bytes()
        engine.remove_adapter("default", engine.adapters(SCOPE)[1].cube_id)
        other.write_bytes(data)
    with MemoryOS(Settings(home=data_folder), embedder, models) as engine:
        assert files_in(data_folder) == [kept]
        assert len(engine.adapters(SCOPE)) == 1


# ------------------------------------------------------------ training again


class Trainer:
    """Stands where the distillation stands: publishes a random adapter, after what a test wants to happen before."""

    def __init__(self, engine: MemoryOS, make: Make, before: Callable[[int], object] = lambda _: None) -> None:
        self.seen: list[Mapping[str, Any]] = []
        self._engine = engine
        self._make = make
        self._before = before

    def run(self, scope: Scope, payload: Mapping[str, Any], report: Report) -> dict[str, Any]:
        self.seen.append(payload)
        report(0.5)
        sources = [(cube_id, self._engine.get(scope.tenant, cube_id).version) for cube_id in payload["ids"]]
        self._before(len(self.seen))
        options = {name: value for name, value in payload.items() if name not in ("ids", "to", "name")}
        cube_id = self._engine.parametric.publish(
            scope, self._make(90), sources=sources, gate=None, provenance={"options": options}, name=payload.get("name")
        )
        return {"cube_id": cube_id, "made": True}


def over(engine: MemoryOS) -> None:
    """Wait until every job is over."""
    left = True
    while left:
        time.sleep(0.01)
        with engine.database.read() as connection:
            left = bool(unfinished_jobs(connection))


def test_forgetting_trains_again_without_the_note(
    registry: MemoryOS, stored: Store, published: Publish, random_adapter: Make, frame: Frame
) -> None:
    trainer = Trainer(registry, random_adapter)
    vars(registry.parametric)["_promotion"] = trainer
    one, two, three = stored(registry, "one", "two", "three")
    published(registry, random_adapter(), one, two, three, name="facts")
    registry.forget("default", two.id)
    over(registry)
    assert trainer.seen == [{"epochs": 3, "ids": [one.id, three.id], "to": "parametric", "name": "facts"}]
    (record,) = registry.parametric.published(SCOPE, frame.base)
    assert (record.sources, record.name) == (((one.id, 1), (three.id, 1)), "facts")


def test_forgetting_more_meanwhile_trains_on_what_is_left(
    registry: MemoryOS, stored: Store, published: Publish, random_adapter: Make, frame: Frame
) -> None:
    one, two, three = stored(registry, "one", "two", "three")
    trainer = Trainer(registry, random_adapter, lambda run: run == 1 and registry.forget("default", one.id))
    vars(registry.parametric)["_promotion"] = trainer
    published(registry, random_adapter(), one, two, three)
    registry.forget("default", two.id)
    over(registry)
    assert [payload["ids"] for payload in trainer.seen] == [[one.id, three.id], [three.id]]
    (record,) = registry.parametric.published(SCOPE, frame.base)
    assert record.sources == ((three.id, 1),)


def test_nothing_left_trains_nothing(
    registry: MemoryOS, stored: Store, published: Publish, random_adapter: Make
) -> None:
    one, two = stored(registry, "one", "two")
    payload = {"ids": [one.id, two.id]}
    vars(registry.parametric)["_promotion"] = Trainer(registry, random_adapter)
    registry.forget("default", one.id)
    registry.forget("default", two.id)
    assert registry.parametric.run_retraining(SCOPE, payload, lambda _: None) == {"cube_id": None, "made": False}


def test_promotion_is_a_job_of_its_own(registry: MemoryOS, stored: Store, random_adapter: Make) -> None:
    trainer = Trainer(registry, random_adapter)
    vars(registry.parametric)["_promotion"] = trainer
    (note,) = stored(registry, "one")
    job = registry.promote("default", [note.id], to="parametric", options={"epochs": 2})
    over(registry)
    job = registry.job("default", job.id)
    assert (job.task, job.state) == ("distil", "done")
    assert job.result is not None
    assert registry.adapter("default", job.result["cube_id"]).provenance == {"options": {"epochs": 2}}


@pytest.mark.parametrize("options", ["epochs", {"epochs": [1]}, {"epochs": {}}])
def test_options_that_are_none_are_refused(options: Any, registry: MemoryOS, stored: Store) -> None:
    (note,) = stored(registry, "one")
    with pytest.raises(InvalidInput, match="option"):
        registry.promote("default", [note.id], to="parametric", options=options)
    with pytest.raises(InvalidInput, match="codec"):
        registry.promote("default", [note.id], to="parametric", codec="raw")
