"""KV files on the disk: whole or not there, checked before use, within their cap, by any number of writers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from memos.activation.files import Found, KVFiles, Published, Rejected
from memos.activation.keys import TenantSecrets, storage_key
from memos.activation.loader import load
from memos.activation.miss import KVMiss
from memos.errors import StoreFull, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def reason(cabinet: Any, draft: Any, tenant: str = "alice") -> str:
    """Return why a draft's file cannot be used, ``""`` if it can."""
    try:
        with cabinet.open(draft, tenant) as opened:
            block = load(opened).wait()
        assert torch.equal(block.data, draft.kv.data)
    except KVMiss as miss:
        return miss.reason
    return ""


# ------------------------------------------------------------ publishing


@pytest.mark.parametrize("codec", ["raw", "odd"])
@pytest.mark.parametrize("tokens", [1, 13, 64])
def test_published_file_is_what_was_encoded(cabinet: Any, codec: str, tokens: int) -> None:
    draft = cabinet.draft(2, tokens=tokens, codec=codec)
    published = cabinet.publish(draft)
    assert reason(cabinet, draft) == ""
    with cabinet.open(draft) as opened:
        assert opened.header == published.header == replace(draft.header, parameters=draft.encoded.parameters)
    data = published.path.read_bytes()
    assert published.made
    assert published.bytes == len(data) == cabinet.files.usage()
    assert published.sha256 == hashlib.sha256(data).hexdigest()
    assert cabinet.files.verify("alice", draft.header.key, published.sha256) is None


def test_files_are_their_owners_alone(cabinet: Any) -> None:
    path = cabinet.publish(cabinet.draft()).path
    assert path.relative_to(cabinet.root).parts == (path.name[:2], path.name)
    modes = [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent, cabinet.root, cabinet.root / "secret")]
    assert modes == [0o600, 0o700, 0o700, 0o600]


def test_first_file_of_a_key_stays(cabinet: Any) -> None:
    first, second = cabinet.draft(), cabinet.draft(cube_id="another")
    made, again = cabinet.publish(first), cabinet.publish(second)
    assert (made.made, again.made) == (True, False)
    assert again.header.cube_id == first.header.cube_id
    assert again.sha256 == made.sha256
    assert cabinet.names() == [made.path.name]


def test_broken_file_of_a_key_is_replaced(cabinet: Any) -> None:
    draft = cabinet.draft()
    path = cabinet.publish(draft).path
    path.write_bytes(path.read_bytes()[:-1])
    assert reason(cabinet, draft) == "truncated"
    assert cabinet.publish(draft).made
    assert reason(cabinet, draft) == ""
    assert cabinet.names() == [path.name]


def test_threads_that_publish_the_same_key(cabinet: Any) -> None:
    draft = cabinet.draft(tokens=512)
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: cabinet.publish(draft), range(8)))
    assert [one.made for one in done].count(True) == 1
    assert len({one.sha256 for one in done}) == 1
    assert cabinet.names() == [done[0].path.name]


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start processes of publisher.py."""
    with contextlib.ExitStack() as stack:

        def begin(root: Path, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
            command = [*prefix, sys.executable, str(Path(__file__).with_name("publisher.py")), str(root)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield begin


def order(process: subprocess.Popen[str], **message: Any) -> None:
    """Give a publisher something to do."""
    assert process.stdin is not None
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()


def event(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return the next thing a publisher says."""
    assert process.stdout is not None
    found: dict[str, Any] = json.loads(process.stdout.readline())
    return found


def test_processes_that_publish_and_are_killed(cabinet: Any, start: Callable[..., subprocess.Popen[str]]) -> None:
    """Two processes write the same files, then one is killed at random moments: what it announced is there, whole."""
    processes = [start(cabinet.root), start(cabinet.root)]
    assert [event(process) for process in processes] == [{"ready": True}] * 2
    for seed in range(8):
        for process in processes:
            order(process, do="one", seed=seed)
        said = [event(process) for process in processes]
        assert [one["made"] for one in said].count(True) == 1
        assert said[0]["sha256"] == said[1]["sha256"]
    assert len(cabinet.names()) == 8
    acknowledged = list(kill_publishers(processes[0]))
    assert acknowledged
    for name in cabinet.names():
        if name.endswith(".safetensors"):
            assert cabinet.files.verify("alice", name.removesuffix(".safetensors")) is None
    for one in acknowledged:
        assert cabinet.files.verify("alice", one["key"], one["sha256"]) is None
    cabinet.files.sweep({one["key"] for one in acknowledged})
    assert cabinet.names() == sorted({f"{one['key']}.safetensors" for one in acknowledged})


def kill_publishers(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """Yield what children announced before each was killed."""
    for number in range(8):
        order(process, do="many", first=100 * (number + 1))
        child = event(process)["child"]
        first = event(process)
        time.sleep(random.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        while "key" in first:
            yield first
            first = event(process)
        assert first == {"ended": child}


# ------------------------------------------------------------ room


def test_cap_is_never_exceeded(cabinet: Any) -> None:
    size = cabinet.publish(cabinet.draft()).bytes
    other = cabinet.reopened(cap_bytes=3 * size)
    for seed in range(1, 6):
        draft = cabinet.draft(seed)
        if seed < 3:
            other.publish("alice", draft.header, draft.encoded)
            continue
        with pytest.raises(StoreFull, match="MEMOS_KV_BYTES") as refusal:
            other.publish("alice", draft.header, draft.encoded)
        assert "memos kv rm" in str(refusal.value)
    assert other.usage() == 3 * size
    other.remove(cabinet.draft(0).header.key)
    draft = cabinet.draft(4)
    other.publish("alice", draft.header, draft.encoded)
    assert other.usage() == 3 * size


def test_cap_holds_against_many_writers(cabinet: Any) -> None:
    size = cabinet.publish(cabinet.draft()).bytes
    writers = [cabinet.reopened(cap_bytes=5 * size + size // 2) for _ in range(4)]
    drafts = [cabinet.draft(seed) for seed in range(1, 13)]

    def attempt(number: int) -> int:
        draft = drafts[number]
        try:
            published: Published = writers[number % 4].publish("alice", draft.header, draft.encoded)
            return published.bytes
        except StoreFull:
            return 0

    with ThreadPoolExecutor(4) as pool:
        stored = list(pool.map(attempt, range(12)))
    assert sum(stored) + size == cabinet.files.usage() == sum(each.stat().st_size for each in cabinet.root.rglob("*/*"))
    assert cabinet.files.usage() <= 5 * size + size // 2


def test_usage_is_what_is_there(cabinet: Any) -> None:
    """Whatever happens to the files, and whoever does it."""
    shuffle = random.Random(5)
    for _ in range(60):
        draft = cabinet.draft(shuffle.randrange(8))
        path = cabinet.root / draft.header.key[:2] / f"{draft.header.key}.safetensors"
        match shuffle.choice(["publish", "publish", "remove", "unlink", "sweep", "other"]):
            case "publish":
                cabinet.publish(draft)
            case "remove":
                assert cabinet.files.remove(draft.header.key)
            case "unlink":
                path.unlink(missing_ok=True)
            case "sweep":
                cabinet.files.sweep({draft.header.key})
            case "other":
                cabinet.reopened().publish("alice", draft.header, draft.encoded)
        assert cabinet.files.usage() == sum(each.stat().st_size for each in cabinet.root.rglob("*/*"))


def test_free_space_floor(cabinet: Any) -> None:
    files = cabinet.reopened(free_floor_bytes=shutil.disk_usage(cabinet.root).total)
    draft = cabinet.draft()
    with pytest.raises(StoreFull, match="MEMOS_KV_FREE_BYTES"):
        files.publish("alice", draft.header, draft.encoded)
    assert cabinet.names() == []


def test_file_that_may_not_grow(cabinet: Any) -> None:
    """What a quota does; ``test_full_disk`` is the disk itself."""
    cabinet.publish(cabinet.draft())
    big = cabinet.draft(1, tokens=4096)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StoreFull, match="no space left"):
            cabinet.publish(big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(cabinet.names()) == 1
    assert cabinet.publish(big).made


def test_full_disk(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    """A file system of 2 MiB, mounted where nobody else sees it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = f'mount -t tmpfs -o size=2m none {folder} && exec "$@"'
    prefix = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh")
    if subprocess.run([*prefix, "true"], check=False).returncode:
        pytest.skip("this system lets nobody mount a file system of their own")
    process = start(folder / "kv", prefix)
    assert event(process) == {"ready": True}
    order(process, do="fill")
    stored = []
    while "full" not in (said := event(process)):
        stored.append(said)
    assert "no space left" in said["full"]
    assert said["names"] == sorted(f"{one['key']}.safetensors" for one in stored)
    assert event(process)["made"]


def test_folder_that_cannot_be_written(cabinet: Any) -> None:
    draft = cabinet.draft()
    (cabinet.root / draft.header.key[:2]).write_text("in the way")
    with pytest.raises(StoreUnavailable):
        cabinet.publish(draft)
    assert reason(cabinet, draft) == "io"


# ------------------------------------------------------------ every reason for a miss


def test_miss_absent(cabinet: Any) -> None:
    assert reason(cabinet, cabinet.draft()) == "absent"
    shutil.rmtree(cabinet.root)
    assert reason(cabinet, cabinet.draft()) == "absent"


@pytest.mark.parametrize("expected", ["fingerprint", "sources", "tokens"])
def test_miss_of_something_else(cabinet: Any, expected: str) -> None:
    draft = cabinet.draft()
    cabinet.publish(draft)
    other = {
        "fingerprint": {"fingerprint": "other"},
        "sources": {"sources": draft.header.sources[::-1]},
        "tokens": {"token_ids": (*draft.header.token_ids[:-1], 99)},
    }
    asked = replace(draft, header=replace(draft.header, **other[expected]))
    assert reason(cabinet, asked) == expected


def test_miss_of_another_shape(cabinet: Any) -> None:
    draft = cabinet.draft()
    cabinet.publish(draft)
    other = replace(draft.header, shape=replace(draft.header.shape, heads=4, head_dim=4))
    assert reason(cabinet, replace(draft, header=other)) == "fingerprint"


def test_tokens_need_only_begin_like_the_file(cabinet: Any) -> None:
    draft = cabinet.draft()
    cabinet.publish(draft)
    ids = draft.header.token_ids
    with cabinet.files.open("alice", draft.header.key, replace(draft.expected, token_ids=[*ids, 7, 8])) as opened:
        assert opened.header.tokens == len(ids)
    with pytest.raises(KVMiss, match="tokens"):
        cabinet.files.open("alice", draft.header.key, replace(draft.expected, token_ids=ids[:-1]))


def test_miss_of_a_foreign_tenant(cabinet: Any) -> None:
    """Neither under the owner's key, nor copied to where a key of one's own points."""
    draft, mine = cabinet.draft(), cabinet.draft(tenant="bob")
    path = cabinet.publish(draft).path
    assert reason(cabinet, draft, "bob") == "seal"
    place = cabinet.root / mine.header.key[:2] / f"{mine.header.key}.safetensors"
    place.parent.mkdir(exist_ok=True)
    shutil.copy(path, place)
    assert reason(cabinet, mine, "bob") == "seal"


def test_keys_of_tenants_have_nothing_in_common(cabinet: Any) -> None:
    keys = {cabinet.draft(tenant=tenant).header.key for tenant in ("alice", "bob")}
    assert len(keys) == 2


def test_miss_of_swapped_files(cabinet: Any) -> None:
    one, two = cabinet.draft(1), cabinet.draft(2)
    first, second = cabinet.publish(one).path, cabinet.publish(two).path
    aside = first.with_suffix(".aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)
    assert [reason(cabinet, draft) for draft in (one, two)] == ["key", "key"]


def test_miss_of_swapped_layers(cabinet: Any) -> None:
    one, two = cabinet.draft(1), cabinet.draft(2)
    paths = [cabinet.publish(draft).path for draft in (one, two)]
    first, second = (path.read_bytes() for path in paths)
    assert len(first) == len(second)
    cut = len(first) - one.encoded.layers[1]["kv"].nbytes
    paths[0].write_bytes(first[:cut] + second[cut:])
    assert reason(cabinet, one) == "checksum"


@pytest.mark.parametrize("codec", ["raw", "odd"])
@pytest.mark.parametrize("share", [0.0, 0.0001, 0.2, 0.5, 0.9999])
def test_miss_truncated(cabinet: Any, codec: str, share: float) -> None:
    draft = cabinet.draft(tokens=50, codec=codec)
    path = cabinet.publish(draft).path
    os.truncate(path, int(path.stat().st_size * share))
    assert reason(cabinet, draft) == "truncated"


def test_miss_of_a_longer_file(cabinet: Any) -> None:
    draft = cabinet.draft()
    path = cabinet.publish(draft).path
    path.write_bytes(path.read_bytes() + b"\0")
    assert reason(cabinet, draft) == "format"


def test_miss_of_no_file(cabinet: Any) -> None:
    draft = cabinet.draft()
    path = cabinet.publish(draft).path
    for make in (path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero")):
        path.unlink()
        make()
        assert reason(cabinet, draft) == "io"
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
            path.touch()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_miss_of_an_unreadable_file(cabinet: Any) -> None:
    draft = cabinet.draft()
    cabinet.publish(draft).path.chmod(0)
    assert reason(cabinet, draft) == "io"


@pytest.mark.parametrize("key", ["", "..", "a" * 63, "A" * 64, "../" * 20, "0" * 64 + "\n"])
def test_miss_of_what_is_no_key(cabinet: Any, key: str) -> None:
    with pytest.raises(KVMiss, match="key"):
        cabinet.files.open("alice", key, cabinet.draft().expected)
    assert cabinet.files.verify("alice", key).startswith("key")
    with pytest.raises(ValueError, match="storage key"):
        cabinet.files.remove(key)


def test_verify_reads_everything(cabinet: Any) -> None:
    draft = cabinet.draft()
    published = cabinet.publish(draft)
    key = draft.header.key
    assert cabinet.files.verify("alice", key, "0" * 64).startswith("checksum")
    data = bytearray(published.path.read_bytes())
    data[-1] ^= 1
    published.path.write_bytes(data)
    assert cabinet.files.verify("alice", key).startswith("checksum: layer.001.kv")
    cabinet.files.remove(key)
    assert cabinet.files.verify("alice", key).startswith("absent")


# ------------------------------------------------------------ the index from the files


def test_scan_finds_what_an_index_needs(cabinet: Any) -> None:
    drafts = [cabinet.draft(seed, loss=seed / 10) for seed in range(3)]
    published = {one.header.key: one for one in map(cabinet.publish, drafts)}
    stranger = cabinet.publish(cabinet.draft(9, tenant="bob"), "bob")
    broken = cabinet.publish(cabinet.draft(8)).path
    os.truncate(broken, 100)
    scanned = list(cabinet.reopened().scan("alice"))
    found = {one.header.key: one for one in scanned if isinstance(one, Found)}
    assert {key: one.header for key, one in found.items()} == {key: one.header for key, one in published.items()}
    assert {key: one.sha256 for key, one in found.items()} == {key: one.sha256 for key, one in published.items()}
    rejected = {one.path: one.reason for one in scanned if isinstance(one, Rejected)}
    assert rejected == {stranger.path: "seal", broken: "truncated"}


def test_sweep_spares_the_living(cabinet: Any) -> None:
    dead, live = (cabinet.draft(seed) for seed in range(2))
    for draft in (dead, live):
        cabinet.publish(draft)
    assert cabinet.files.sweep({live.header.key}) == 1
    assert [reason(cabinet, draft) for draft in (dead, live)] == ["absent", ""]


def test_sweep_spares_what_is_being_written(cabinet: Any) -> None:
    path = cabinet.publish(cabinet.draft()).path
    left = path.parent / ".left.tmp"
    left.write_bytes(b"half of it")
    with cabinet.files._room.reserve(path.parent, 1000) as (_, writing):
        assert cabinet.files.usage() == path.stat().st_size + 10 + 1000
        assert cabinet.files.sweep({path.stem}) == 1
        assert writing.exists()
    assert cabinet.names() == [path.name]


def test_remove(cabinet: Any) -> None:
    draft = cabinet.draft()
    cabinet.publish(draft)
    assert cabinet.files.remove(draft.header.key)
    assert cabinet.files.remove(draft.header.key)
    assert reason(cabinet, draft) == "absent"


# ------------------------------------------------------------ secrets


def test_secret_is_made_once(tmp_path: Path) -> None:
    root = tmp_path / "kv"
    barrier = threading.Barrier(8)

    def make(_: int) -> bytes:
        barrier.wait()
        return TenantSecrets(root).of("alice")

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(make, range(8)))) == 1
    assert [path.name for path in root.iterdir()] == ["secret"]


def test_lost_secret_makes_every_file_a_miss(cabinet: Any) -> None:
    draft = cabinet.draft()
    cabinet.publish(draft)
    (cabinet.root / "secret").unlink()
    cabinet.files = cabinet.reopened()
    assert reason(cabinet, draft) == "seal"


def test_secret_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"short")
    with pytest.raises(StoreUnavailable, match="no secret"):
        KVFiles(tmp_path, 1, 1)


def test_root_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "kv").write_text("in the way")
    with pytest.raises(StoreUnavailable):
        KVFiles(tmp_path / "kv", 1, 1)


def test_storage_key_depends_on_everything() -> None:
    key = storage_key(bytes(32), "user", "digest", tokens=[1, 2])
    assert len(key) == 64
    others = [
        storage_key(bytes([1]) * 32, "user", "digest", tokens=[1, 2]),
        storage_key(bytes(32), "userd", "igest", tokens=[1, 2]),
        storage_key(bytes(32), "user", "digest", tokens=[2, 1]),
        storage_key(bytes(32), "user", "digest", "", tokens=[1, 2]),
    ]
    assert len({key, *others}) == 5
    assert key == storage_key(bytes(32), "user", "digest", tokens=(1, 2))
