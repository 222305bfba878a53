"""A backup that is damaged, incomplete or malicious is refused, and nothing of it is written."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from memos.backup.manifest import seal
from memos.backup.source import Source
from memos.config import Settings
from memos.cube import Scope
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.errors import BackupRefused, InvalidInput, MemosError, StoreTooNew

SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
ANN = Scope(user_id="ann")
Packer = Callable[[str], Path]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, embedder: Embedder) -> Iterator[MemoryOS]:
    """An engine on an empty store, which stays empty whatever it is told to restore."""
    with MemoryOS(Settings(home=tmp_path_factory.mktemp("untouched"), notes="off"), embedder) as opened:
        yield opened


@pytest.fixture
def other(reopened: Callable[..., MemoryOS], tmp_path: Path) -> Iterator[MemoryOS]:
    """An engine on an empty store of the test's own."""
    with reopened(tmp_path / "new") as opened:
        yield opened


def check_refused(
    engine: MemoryOS, path: Path, match: str | None = None, kind: type[MemosError] = BackupRefused
) -> None:
    with pytest.raises(kind, match=match):
        engine.restore(path)
    check_untouched(engine)


def check_untouched(engine: MemoryOS) -> None:
    """Nothing was written: no row, and no file."""
    with engine.database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM namespaces").scalar() == 0
    assert not [path for path in engine.settings.home.rglob("*") if path.suffix in {".safetensors", ".tmp"}]


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest of a folder, with its checksum, as an enemy can."""
    content = json.loads((path / "manifest.json").read_bytes())["manifest"]
    change(content)
    (path / "manifest.json").write_bytes(seal(content))


def replaced(path: Path, name: str, data: bytes) -> None:
    """Change a file of a folder, with its checksum."""
    (path / name).write_bytes(data)
    record = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    rewritten(path, lambda manifest: manifest["files"].update({name: record}))


def with_lines(path: Path, name: str, change: Callable[[str, dict[str, Any]], None]) -> None:
    """Change the rows of a folder, with their checksum."""
    lines = [json.loads(line) for line in (path / name).read_bytes().splitlines()]
    for table, row in lines:
        change(table, row)
    replaced(path, name, b"".join(json.dumps(line).encode() + b"\n" for line in lines))


@pytest.mark.parametrize("name", ["b.tar", "b.tar.zst"])
def test_flipped_bits_of_an_archive(engine: MemoryOS, packed: Packer, name: str) -> None:
    """Compressed, a few bits say nothing of the content; what they are in is not refused, and has the whole content."""
    path = packed(name)
    whole, manifest = path.read_bytes(), Source(path, 1 << 30).verify()
    for place in [0, len(whole) - 1, *(random.randrange(len(whole)) for _ in range(1_000 if SOAK else 40))]:
        data = bytearray(whole)
        data[place] ^= 1 << random.randrange(8)
        path.write_bytes(data)
        try:
            assert (Source(path, 1 << 30).verify(), path.suffix) == (manifest, ".zst")
        except BackupRefused:
            continue
    path.write_bytes(whole[:-600] + b"!" + whole[-599:])
    check_refused(engine, path)


def test_flipped_bits_of_a_folder(engine: MemoryOS, packed: Packer) -> None:
    path = packed("b")
    for file in [one for one in path.rglob("*") if one.is_file()]:
        data = bytearray(file.read_bytes())
        data[random.randrange(len(data))] ^= 1
        whole, _ = file.read_bytes(), file.write_bytes(data)
        check_refused(engine, path)
        file.write_bytes(whole)
    assert Source(path, 0).verify().namespaces


@pytest.mark.parametrize("name", ["b.tar", "b.tar.zst"])
def test_archives_that_end_early_or_late(engine: MemoryOS, packed: Packer, name: str) -> None:
    path = packed(name)
    whole = path.read_bytes()
    for end in (0, 3, 100, 512, len(whole) // 2, len(whole) - 1_100):
        path.write_bytes(whole[:end])
        check_refused(engine, path)
    path.write_bytes(whole + b"more")
    check_refused(engine, path)


def test_files_that_are_missing_or_too_many(engine: MemoryOS, packed: Packer) -> None:
    path = packed("b")
    adapter = next((path / "tiers" / "adapters").rglob("*.safetensors"))
    data = adapter.read_bytes()
    adapter.unlink()
    check_refused(engine, path, "is missing")
    adapter.write_bytes(data)
    (adapter.parent / f"{'0' * 64}.safetensors").write_bytes(data)
    check_refused(engine, path, "not in the manifest")
    (path / "manifest.json").unlink()
    check_refused(engine, path, "no manifest")


def test_links_in_a_folder(engine: MemoryOS, packed: Packer, tmp_path: Path) -> None:
    path = packed("b")
    rows = path / "rows" / "0000000.jsonl"
    rows.rename(tmp_path / "elsewhere")
    rows.symlink_to(tmp_path / "elsewhere")
    check_refused(engine, path, kind=InvalidInput)
    rows.unlink()
    (path / "rows").rmdir() if not any((path / "rows").iterdir()) else (path / "rows").rename(tmp_path / "rows")
    (path / "rows").symlink_to(tmp_path / "rows")
    check_refused(engine, path, "is a link")


@pytest.mark.parametrize("name", ["rows/fifo", "../x", "rows/0000000.jsonl"])
def test_things_that_are_no_files(engine: MemoryOS, packed: Packer, name: str) -> None:
    path = packed("b")
    (path / name).unlink(missing_ok=True)
    os.mkfifo(path / name)
    if name == "../x":
        check_refused(engine, path.parent / "x", kind=InvalidInput)
    else:
        check_refused(engine, path, kind=InvalidInput)


@pytest.mark.parametrize(
    "name",
    [
        "../../evil.jsonl",
        "/etc/passwd",
        "rows/../../x.jsonl",
        "rows/0000000.jsonl/x",
        "./rows/0000000.jsonl",
        "rows/0000000.jsonl\n",
        "tiers/kv/0000000/../../../x.safetensors",
        "",
    ],
)
def test_names_that_lead_elsewhere(engine: MemoryOS, tmp_path: Path, name: str) -> None:
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        entry = tarfile.TarInfo(name)
        entry.size = 4
        tar.addfile(entry, io.BytesIO(b"evil"))
    check_refused(engine, path)
    assert [one.name for one in tmp_path.iterdir()] == ["evil.tar"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.XHDTYPE])
def test_entries_that_are_no_files(engine: MemoryOS, tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "evil.tar"
    entry = tarfile.TarInfo("rows/0000000.jsonl")
    entry.type, entry.linkname, entry.size = kind, "/etc/passwd", 1 << 40
    path.write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + bytes(1_024))
    check_refused(engine, path)


def test_archive_that_unpacks_to_more_than_there_is_room_for(
    engine: MemoryOS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memos.backup.restore._free_bytes", lambda home: 10 << 20)
    entry = tarfile.TarInfo("rows/0000000.jsonl")
    entry.size = 64 << 20
    bomb = entry.tobuf(tarfile.GNU_FORMAT) + bytes(entry.size)
    (tmp_path / "bomb.tar.zst").write_bytes(zstandard.compress(bomb))
    check_refused(engine, tmp_path / "bomb.tar.zst", "more than the free space")


def test_what_is_no_backup(engine: MemoryOS, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no backup")
    (tmp_path / "empty").mkdir()
    check_refused(engine, tmp_path / "text")
    check_refused(engine, tmp_path / "empty", "no manifest")
    check_refused(engine, tmp_path / "nothing", "No such file", InvalidInput)
    check_refused(engine, engine.settings.home)


def test_later_versions_are_told_to_upgrade(engine: MemoryOS, packed: Packer) -> None:
    path = packed("b")
    rewritten(path, lambda manifest: manifest.update(store_schema="9999"))
    check_refused(engine, path, "Upgrade", StoreTooNew)
    rewritten(path, lambda manifest: manifest.update(store_schema="0005", version=2))
    check_refused(engine, path, "Upgrade", StoreTooNew)


def test_columns_that_an_earlier_schema_had_not_get_their_defaults(other: MemoryOS, packed: Packer) -> None:
    path = packed("b")

    def as_before(table: str, row: dict[str, Any]) -> None:
        if table == "versions":
            del row["entities"], row["importance"]

    with_lines(path, "rows/0000000.jsonl", as_before)
    rewritten(path, lambda manifest: manifest.update(store_schema="0003"))
    assert other.restore(path).memories == 6
    assert other.list(ANN)[0].descriptor.entities == ()


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest["namespaces"].append(manifest["namespaces"][0]),
        lambda manifest: manifest["namespaces"].pop(),
        lambda manifest: manifest["namespaces"][0].update(user_id=" "),
        lambda manifest: manifest["namespaces"][0].update(user_id="carol"),
        lambda manifest: manifest["namespaces"][0]["rows"].update(cubes=1),
        lambda manifest: manifest["namespaces"][0]["said"].pop("revision"),
        lambda manifest: manifest["namespaces"][0]["said"].update(memories="many"),
        lambda manifest: manifest["embedder"].update(dimension=63),
        lambda manifest: manifest["files"].update({"../x": {"bytes": 1, "sha256": "0" * 64}}),
        lambda manifest: manifest.update(files=[]),
        lambda manifest: manifest.update(embedder=None),
    ],
)
def test_manifests_that_contradict_the_rest(
    engine: MemoryOS, packed: Packer, change: Callable[[dict[str, Any]], None]
) -> None:
    path = packed("b")
    rewritten(path, change)
    check_refused(engine, path, kind=InvalidInput)


def test_rows_that_reach_into_another_namespace(other: MemoryOS, packed: Packer) -> None:
    path = packed("b")
    (cube,) = other.store_many(Scope(user_id="victim"), [{"text": "a secret"}])

    def turn(table: str, row: dict[str, Any]) -> None:
        if table == "links":
            row["target_id"] = cube.id

    with_lines(path, "rows/0000000.jsonl", turn)
    with pytest.raises(BackupRefused, match="another namespace"):
        other.restore(path)
    assert other.stats(ANN).memories == 0
    assert other.links("default", cube.id) == []


def test_ids_that_another_namespace_has(other: MemoryOS, packed: Packer) -> None:
    path = packed("b")
    (cube,) = other.store_many(Scope(user_id="victim"), [{"text": "a secret"}])

    def take(table: str, row: dict[str, Any]) -> None:
        if table == "cubes" and row["kind"] == "activation":
            row["id"] = cube.id

    with_lines(path, "rows/0000000.jsonl", take)
    with pytest.raises(BackupRefused, match="same ids"):
        other.restore(path)
    assert other.stats(ANN).memories == 0


@pytest.mark.parametrize("tier", ["kv", "adapters"])
def test_swapped_files_are_not_used(other: MemoryOS, packed: Packer, tier: str) -> None:
    """Files of the right size and checksum that are none, or another cube's, are as good as missing."""
    path = packed("b")
    ours, theirs = ([*(path / "tiers" / tier / space).iterdir()] for space in ("0000000", "0000001"))
    for place, file in enumerate(ours):
        data = theirs[place].read_bytes() if tier == "kv" else bytes(file.stat().st_size)
        replaced(path, file.relative_to(path).as_posix(), data)
    report = other.restore(path)
    assert (report.kv_dropped, report.adapters_dropped) == ((1, 0) if tier == "kv" else (0, 2))
    assert other.stats(ANN).memories == 3
    assert other.doctor().healthy
