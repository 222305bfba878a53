"""10,000 mutated files: none crashes the reader, none is accepted."""

from __future__ import annotations

import json
import os
import random
import re
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
import torch
import xxhash

from memos.activation.layout import _sealed
from memos.activation.loader import load
from memos.activation.miss import KVMiss

if TYPE_CHECKING:
    from pathlib import Path

ROUNDS = 10 if os.environ.get("HYPOTHESIS_PROFILE") == "soak" else 1
FILES = 5_000
SEED = int(os.environ.get("FUZZ_SEED", random.SystemRandom().randrange(1 << 32)))


# ------------------------------------------------------------ of the bytes


def flip(chance: random.Random, data: bytes) -> bytes:
    """Flip one to four bits, half the time within the header."""
    changed = bytearray(data)
    end = len(data) if chance.random() < 0.5 else header_end(data)
    for bit in chance.sample(range(8 * end), chance.randint(1, 4)):
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def truncate(chance: random.Random, data: bytes) -> bytes:
    """Cut the end off."""
    return data[: chance.choice([0, 1, 7, 8, 9, chance.randrange(len(data)), len(data) - 1])]


def extend(chance: random.Random, data: bytes) -> bytes:
    """Add something at an end, or in the middle."""
    place = chance.choice([0, len(data), header_end(data), chance.randrange(len(data))])
    return data[:place] + chance.randbytes(chance.choice([1, 8, 64, 4096])) + data[place:]


def remove(chance: random.Random, data: bytes) -> bytes:
    """Take something out of the middle."""
    start = chance.randrange(len(data) - 1)
    return data[:start] + data[start + chance.randint(1, 200) :]


def swap(chance: random.Random, data: bytes) -> bytes:
    """Exchange two ranges of equal length."""
    length = chance.choice([1, 8, 64, 256])
    first, second = sorted(chance.sample(range(0, len(data) - length, 4), 2))
    if second < first + length:
        return data[:first] + data[second : second + length] + data[first + length :]
    middle = data[first + length : second]
    tail = data[second + length :]
    return data[:first] + data[second : second + length] + middle + data[first : first + length] + tail


def zero(chance: random.Random, data: bytes) -> bytes:
    """What a lost block leaves."""
    start = chance.randrange(len(data))
    length = min(chance.choice([16, 512, 4096]), len(data) - start)
    return data[:start] + bytes(length) + data[start + length :]


def announce(chance: random.Random, data: bytes) -> bytes:
    """Claim another length of the header."""
    length = chance.choice([0, 1, 8, len(data), 1 << 20, 1 << 24, (1 << 24) + 1, 1 << 40, (1 << 64) - 1])
    return length.to_bytes(8, "little") + data[8:]


BYTES = [flip, flip, truncate, extend, remove, swap, zero, announce]


# ------------------------------------------------------------ of the header's meaning

ODD = [
    None, True, -1, 0, 1, 1.5, 7, 63, 64, 1 << 31, 1 << 53, (1 << 53) + 1, 1 << 64, 10**400, "", "x", "0", "-1", "1e9",
    "é", "U8", "F32", "NaN", [], [0], [0, 0], [-8, 8], [8, 0], [1 << 60, 1 << 60], {}, {"a": 1}, float("nan"),
    float("inf"), "[" * 5_000, '{"a":1,"a":1}', "[" + "1," * 2_000 + "1]", "9" * 5_000,
]  # fmt: skip

PLAUSIBLE = [
    "", "0", "1", "2", "3", "16", "raw", "odd", "odd:level=3", "float16", "bfloat16", "[]", "{}", "null", "0.5", "[[]]",
    '[["note-a",1]]', '["0"]', '{"parts":2}', "a" * 64,
]  # fmt: skip


def edit(chance: random.Random, table: dict[str, Any], names: list[str]) -> None:
    """Change, remove, rename or add something."""
    place, key = chance.choice([*paths(table)])
    match chance.randrange(6):
        case 0 if isinstance(place, dict):
            del place[key]
        case 1 if isinstance(place, dict):
            place[chance.choice([*names, "pad.9", "layer.000.kv", "layer.99999.kv", "layer.001.x", "é"])] = place.pop(
                key
            )
        case 2 if isinstance(place, dict):
            place[chance.choice(["zz", "layer.002.kv", "__metadata__"])] = deepcopy(chance.choice(ODD))
        case 3 if isinstance(place, list):
            place[key:key] = [deepcopy(chance.choice(ODD)) for _ in range(chance.choice([1, 3, 40]))]
        case 4:
            _, other = chance.choice([*paths(table)])
            place[key] = deepcopy(table[other] if isinstance(other, str) and other in table else chance.choice(ODD))
        case _:
            place[key] = deepcopy(chance.choice(ODD))


def paths(table: Any) -> Any:
    """Yield every container below, with each of its keys."""
    for key in list(table) if isinstance(table, dict) else range(len(table)):
        yield table, key
        if isinstance(table[key], dict | list):
            yield from paths(table[key])


def header_end(data: bytes) -> int:
    """Return where the data begins."""
    return 8 + int.from_bytes(data[:8], "little")


def rewritten(chance: random.Random, data: bytes) -> bytes:
    """Return a header with another meaning, as JSON that is valid or nearly so."""
    end = header_end(data)
    table = json.loads(data[8:end])
    if chance.random() < 0.5:
        metadata = table["__metadata__"]
        metadata[chance.choice(list(metadata)[1:])] = chance.choice(PLAUSIBLE)
        return json.dumps(table, separators=(",", ":")).encode()
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        edit(chance, table, list(table))
    text = json.dumps(table, separators=(",", ":"))
    match chance.randrange(12):
        case 0:
            text = text.replace('"shape":[', '"shape":' + "[" * 10_000, 1)
        case 1:
            text = re.sub(r'"version":"1"', '"version":"1","version":"1"', text)
        case 2:
            text = text[: chance.randrange(len(text))]
        case 3:
            text = text.replace("0", "-0", 1)
        case 4:
            text += chance.choice(["}", " null", "\0", "é"])
    return text.encode()


def with_header(data: bytes, table: bytes) -> bytes:
    """Return the file with another header, unsealed."""
    table += b" " * (-(8 + len(table)) % 64)
    return len(table).to_bytes(8, "little") + table + data[header_end(data) :]


def forged(chance: random.Random, data: bytes) -> bytes:
    """Change a tensor or the metadata and make all checksums right again: only the seal is missing."""
    end = header_end(data)
    table = json.loads(data[8:end])
    payload = bytearray(data[end:])
    if chance.random() < 0.5:
        payload[chance.randrange(len(payload))] ^= 1 << chance.randrange(8)
    else:
        field = chance.choice(["cube_id", "key", "fingerprint", "created_at", "codec"])
        table["__metadata__"][field] = chance.choice([table["__metadata__"][field] + "0", "1", "raw"])
    spans = [entry["data_offsets"] for name, entry in table.items() if name != "__metadata__"]
    digests = [xxhash.xxh3_128_hexdigest(payload[start:stop]) for start, stop in spans]
    table["__metadata__"]["xxh3"] = json.dumps(digests, separators=(",", ":"))
    return with_header(data[:end] + payload, json.dumps(table, separators=(",", ":")).encode())


# ------------------------------------------------------------ the tests


@pytest.fixture(params=["raw", "odd"])
def published(cabinet: Any, request: pytest.FixtureRequest) -> Any:
    """A small file: its draft, its place and its bytes."""
    draft = cabinet.draft(1, codec=request.param, loss=0.5)
    path = cabinet.publish(draft).path
    return draft, path, path.read_bytes()


def overwrite(path: Path, data: bytes) -> None:
    """Change a file in place; to empty it first would make the file system write each version to the disk."""
    with path.open("r+b") as file:
        file.write(data)
        file.truncate()


def read(cabinet: Any, draft: Any) -> torch.Tensor | str:
    """Return what a file holds, or the reason why it is not believed."""
    try:
        return load(cabinet.open(draft)).wait().data
    except KVMiss as miss:
        return miss.reason


@pytest.mark.timeout(600)
def test_mutated_files_are_misses(cabinet: Any, published: Any) -> None:
    draft, path, data = published
    chance = random.Random(SEED)
    for number in range(FILES * ROUNDS):
        kind = number % 10
        if kind < len(BYTES):
            mutated = BYTES[kind](chance, data)
        else:
            mutated = with_header(data, rewritten(chance, data)) if kind == 8 else forged(chance, data)
        if mutated == data:
            continue
        overwrite(path, mutated)
        assert isinstance(read(cabinet, draft), str), f"seed {SEED}, file {number}"
    overwrite(path, data)
    whole = read(cabinet, draft)
    assert isinstance(whole, torch.Tensor)
    assert torch.equal(whole, draft.kv.data)


@pytest.mark.timeout(600)
def test_sealed_nonsense_never_crashes(cabinet: Any, published: Any) -> None:
    """Whoever has the secret may write what he likes; still the reader says no, or returns what the tensors hold."""
    draft, path, data = published
    secret = cabinet.files._secrets.of("alice")
    chance = random.Random(SEED)
    start = b'{"__metadata__":{"seal":"' + b"0" * 64 + b'","'
    reasons = set()
    for number in range(FILES // 5 * ROUNDS):
        table = rewritten(chance, data)
        table = start + table[len(start) :]
        overwrite(path, _sealed(table, secret) + data[header_end(data) :])
        found = read(cabinet, draft)
        if isinstance(found, str):
            reasons.add(found)
        else:
            assert torch.equal(found, draft.kv.data), f"seed {SEED}, file {number}"
    assert {"format", "fingerprint", "key", "codec"} <= reasons
