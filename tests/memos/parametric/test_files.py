"""The files of adapters: round trips, every kind of damage, other tenants, and the room they take."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from memos.activation.kv import KVBlock, KVShape
from memos.errors import AdapterRefused, StoreFull, StoreUnavailable
from memos.parametric.adapter import Adapter, Factors
from memos.parametric.cartridge import TrainedCartridge
from memos.parametric.checks import Trained
from memos.parametric.container import Card
from memos.parametric.files import AdapterFiles
from memos.store.adapters import Payload

BASE = "b" * 64


def small(seed: int = 0, dtype: torch.dtype = torch.float32) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    factors = {
        (layer, "mlp.up_proj"): Factors(
            torch.randn(rank, 6, generator=generator).to(dtype),
            torch.randn(5, rank, generator=generator).to(dtype),
            1 / 3,
        )
        for layer, rank in ((0, 1), (12, 3))
    }
    return Adapter(BASE, factors)


def cartridge(dtype: str = "float32") -> TrainedCartridge:
    shape = KVShape(2, 3, 4, dtype)
    return TrainedCartridge(BASE, KVBlock(shape, torch.randn(2, 2, 3, 5, 4).to(shape.torch_dtype)))


@pytest.fixture
def files(tmp_path: Path) -> AdapterFiles:
    return AdapterFiles(tmp_path / "adapters", 1 << 30, 0)


def card_of(files: AdapterFiles, trained: Trained, tenant: str = "t", **fields: Any) -> Card:
    given = {
        "key": files.key(tenant, "u", trained.digest),
        "digest": trained.digest,
        "base": BASE,
        "payload": Payload.LORA if isinstance(trained, Adapter) else Payload.CARTRIDGE,
        "name": "Käse",
        "sources": (("note", 3), ("other", 1)),
        "gate": {"passed": True, "kl": 0.01},
        "provenance": {"options": {"epochs": 3}},
    }
    return Card(**{**given, **fields})


def published(files: AdapterFiles, trained: Trained, tenant: str = "t") -> tuple[Card, Path]:
    card = card_of(files, trained, tenant)
    assert files.publish(tenant, card, trained).made
    return card, path_of(files, card.key)


def path_of(files: AdapterFiles, key: str) -> Path:
    return files._room.path(key)


def left(files: AdapterFiles) -> list[str]:
    """The names of all files but those of the room itself."""
    found = [path for path in files._root.rglob("*") if path.is_file()]
    return sorted(path.name for path in found if path.name not in {"secret", "lock", "tally"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_adapter_comes_back_as_it_was(dtype: torch.dtype, files: AdapterFiles) -> None:
    adapter = small(dtype=dtype)
    card, path = published(files, adapter)
    assert files.read("t", card.key)[0] == card
    assert files.read("t", card.key)[1].digest == adapter.digest
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_cartridge_comes_back_as_it_was(dtype: str, files: AdapterFiles) -> None:
    made = cartridge(dtype)
    card, _ = published(files, made)
    read = files.read("t", card.key)[1]
    assert isinstance(read, TrainedCartridge)
    assert (read.digest, read.kv.shape, read.tokens) == (made.digest, made.kv.shape, 5)


def test_file_describes_itself_in_words_of_peft(files: AdapterFiles) -> None:
    adapter = small()
    _, path = published(files, adapter)
    with safe_open(path, "pt") as file:
        assert sorted(file.keys())[0] == "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
        metadata = file.metadata()
    assert (metadata["digest"], metadata["base"]) == (adapter.digest, BASE)
    assert json.loads(metadata["sources"]) == [["note", 3], ["other", 1]]
    assert json.loads(metadata["gate"])["passed"] is True
    assert set(json.loads(metadata["scalings"]).values()) == {1 / 3}


def test_any_flipped_bit_is_refused_or_harmless(files: AdapterFiles) -> None:
    """Harmless is white space that pads the header, and nothing else."""
    adapter = small()
    card, path = published(files, adapter)
    data = path.read_bytes()
    chance = random.Random(0)
    for _ in range(500):
        place, bit = chance.randrange(len(data)), 1 << chance.randrange(8)
        path.write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])
        try:
            found = files.read("t", card.key)
        except AdapterRefused:
            continue
        assert (found[0], found[1].digest) == (card, adapter.digest)


@pytest.mark.parametrize("length", [0, 7, 8, 40, 500, -1])
def test_truncated_file_is_refused(length: int, files: AdapterFiles) -> None:
    card, path = published(files, small())
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(AdapterRefused):
        files.read("t", card.key)


def test_longer_file_is_refused(files: AdapterFiles) -> None:
    card, path = published(files, small())
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(AdapterRefused):
        files.read("t", card.key)


def test_file_of_another_tenant_is_refused(files: AdapterFiles) -> None:
    """The same adapter even: what a tenant reads was sealed for it."""
    mine, my_path = published(files, small())
    _, their_path = published(files, small(), tenant="other")
    assert my_path != their_path
    my_path.write_bytes(their_path.read_bytes())
    with pytest.raises(AdapterRefused, match="another tenant"):
        files.read("t", mine.key)


def test_file_under_another_name_is_refused(files: AdapterFiles) -> None:
    one, one_path = published(files, small(1))
    _, two_path = published(files, small(2))
    one_path.write_bytes(two_path.read_bytes())
    with pytest.raises(AdapterRefused, match="another key"):
        files.read("t", one.key)


Damage = Callable[[Path], object]
NOT_FILES: dict[str, Damage] = {
    "nothing": lambda path: None,
    "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "link": lambda path: path.symlink_to("/etc/hostname"),
    "pickle": lambda path: path.write_bytes(b"\x80\x04K\x01."),
    "huge header": lambda path: path.write_bytes((1 << 62).to_bytes(8, "little") + b"{}"),
    "deep header": lambda path: path.write_bytes((200_000).to_bytes(8, "little") + b"[" * 200_000),
    "list": lambda path: path.write_bytes((2).to_bytes(8, "little") + b"[]"),
    "no text": lambda path: path.write_bytes((24).to_bytes(8, "little") + b'{"__metadata__":{"a":1}}'),
}


@pytest.mark.parametrize("make", NOT_FILES.values(), ids=list(NOT_FILES))
def test_what_is_no_file_of_ours_is_refused(make: Damage, files: AdapterFiles) -> None:
    card, path = published(files, small())
    path.unlink()
    make(path)
    with pytest.raises(AdapterRefused):
        files.read("t", card.key)


def test_good_file_stays_and_damaged_one_is_replaced(files: AdapterFiles) -> None:
    adapter = small()
    card, path = published(files, adapter)
    before = path.stat().st_ino
    assert not files.publish("t", card_of(files, adapter, gate=None), adapter).made
    assert (path.stat().st_ino, files.read("t", card.key)[0]) == (before, card)
    path.write_bytes(b"damaged")
    assert files.publish("t", card, adapter).made
    assert files.read("t", card.key)[1].digest == adapter.digest


def test_cap_is_kept_and_counted_anew_when_it_seems_reached(tmp_path: Path) -> None:
    root = tmp_path / "adapters"
    _, path = published(AdapterFiles(root, 1 << 30, 0), small(0))
    size = path.stat().st_size
    files = AdapterFiles(root, 2 * size + 10, 0)
    second, _ = published(files, small(1))
    with pytest.raises(StoreFull, match="MEMOS_ADAPTER_BYTES"):
        published(files, small(2))
    assert len(left(files)) == 2
    files.remove(second.key)  # the tally does not know
    published(files, small(2))
    (root / "tally").write_text("no number")
    with pytest.raises(StoreFull):
        published(files, small(3))


def test_free_space_is_left(tmp_path: Path) -> None:
    files = AdapterFiles(tmp_path / "adapters", 1 << 60, 1 << 60)
    with pytest.raises(StoreFull, match="MEMOS_KV_FREE_BYTES"):
        published(files, small())
    assert left(files) == []


def test_publication_does_not_look_at_the_other_files(files: AdapterFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    published(files, small(0))
    monkeypatch.delattr(type(files._room).__mro__[1], "entries")
    published(files, small(1))


def test_sweep_removes_orphans(files: AdapterFiles) -> None:
    kept, _ = published(files, small(0))
    published(files, small(1))
    (path_of(files, kept.key).parent / ".dead.tmp").write_bytes(b"of a process that was killed")
    assert files.sweep({kept.key}) == 2
    assert left(files) == [f"{kept.key}.safetensors"]


def test_lost_secret_makes_all_of_them_useless(files: AdapterFiles) -> None:
    card, _ = published(files, small())
    (files._root / "secret").unlink()
    again = AdapterFiles(files._root, 1 << 30, 0)
    with pytest.raises(AdapterRefused):
        again.read("t", card.key)
    (files._root / "secret").write_bytes(b"short")
    with pytest.raises(StoreUnavailable):
        AdapterFiles(files._root, 1 << 30, 0)
