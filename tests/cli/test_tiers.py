"""``memos promote``, ``demote``, ``chat`` and ``kv`` on the real bundled model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(300)  # the first one loads the model

Memos = Callable[..., Any]
FACTS = "\n".join(
    f"Ann wrote in her diary on day {day} that Miso the cat slept on the radiator and Tom cooked soup"
    for day in range(4)
)


@pytest.fixture
def ids(memos_with_model: Memos) -> list[str]:
    """The ids of a few memories."""
    return [cube["id"] for cube in memos_with_model("store", FACTS, "--lines", "--json").data]


def test_promoted_memories_answer_a_chat(memos_with_model: Memos, ids: list[str]) -> None:
    promoted = memos_with_model("promote", *ids, "--json")
    assert (promoted.code, promoted.data["state"]) == (0, "done")
    cube_id = promoted.data["result"]["cube_id"]
    reply = memos_with_model("chat", "Where did the cat sleep?", "--max-tokens", "4", "--json")
    assert reply.data["tiers"]["activation"] == [cube_id]
    assert "tokens reused" in memos_with_model("chat", "Where did the cat sleep?", "--max-tokens", "4").out
    (listed,) = memos_with_model("kv", "ls", "--json").data
    assert (listed["cube_id"], listed["hits"], listed["memories"]) == (cube_id, 2, 4)
    assert memos_with_model("stats", "--json").data["activation_hits"] == 2
    assert "1 files" in memos_with_model("kv", "ls").out
    assert memos_with_model("demote", cube_id).code == 0
    assert memos_with_model("kv", "ls", "--json").data == []


def test_settings_of_a_user_and_the_loss_beside_the_bytes(memos_with_model: Memos, ids: list[str]) -> None:
    shown = memos_with_model("kv", "settings")
    assert (shown.code, "auto (MEMOS_KV_CODEC)" in shown.out, "what costs least" in shown.out) == (0, True, True)
    memos_with_model("promote", *ids)
    assert memos_with_model("kv", "settings", "--codec", "snapkv:0.5+int8", "--ratio", "0.25").code == 0
    chosen = memos_with_model("kv", "settings", "--compose", "blend", "--json").data
    assert chosen == {"user_id": "default", "codec": "snapkv:0.5+int8", "compose": "blend", "ratio": 0.25}
    assert memos_with_model("kv", "settings", "--user", "bob", "--json").data["codec"] is None
    promoted = memos_with_model("promote", *ids)
    assert (" MB of " in promoted.out, "nats per token lost" in " ".join(promoted.out.split())) == (True, True)
    exact, lossy = memos_with_model("kv", "ls", "--json").data
    assert (exact["codec"], exact["loss"], lossy["codec"]) == ("raw", 0, "snapkv:0.5+int8")
    assert lossy["loss"] > 0
    assert lossy["bytes"] < 0.5 * lossy["raw_bytes"] == 0.5 * exact["raw_bytes"]
    listed = memos_with_model("kv", "ls").out
    assert (f"{lossy['loss']:.4f}" in listed, "loss in nats per token" in listed) == (True, True)
    chosen = memos_with_model("kv", "settings", "--reset", "--compose", "concat", "--json").data
    assert chosen == {"user_id": "default", "codec": None, "compose": "concat", "ratio": None}
    for option in (["--codec", "zip"], ["--compose", "mix"], ["--ratio", "1.5"]):
        refused = memos_with_model("kv", "settings", *option)
        assert (refused.code, option[1] in refused.err) == (2, True)
    assert memos_with_model("kv", "settings", "--json").data == chosen
    assert "blend" not in memos_with_model("kv", "settings", "--reset").out


def test_mode_of_composition_is_checked_before_anything(memos_with_model: Memos, ids: list[str]) -> None:
    assert memos_with_model("promote", *ids).code == 0
    reply = memos_with_model("chat", "Where did the cat sleep?", "--max-tokens", "4", "--compose", "prefix", "--json")
    assert reply.data["usage"]["mode"] == "prefix"
    for option in (["--compose", "mix"], ["--ratio", "1.5"]):
        refused = memos_with_model("chat", "Where did the cat sleep?", *option)
        assert refused.code == 2, refused.err
        assert option[1] in refused.err


def test_chat_attends_the_share_that_is_asked(memos_with_model: Memos, ids: list[str]) -> None:
    assert memos_with_model("promote", *ids).code == 0
    asked = ("chat", "Where did the cat sleep?", "--max-tokens", "4", "--retrieval")
    usage = memos_with_model(*asked, "quest:0.5", "--json").data["usage"]
    assert usage["retrieval"] == "quest:0.5"
    assert 0 < usage["attended"] <= 1
    assert "attended by vq:0.5" in memos_with_model(*asked, "vq:0.5").out
    refused = memos_with_model(*asked, "nearest:0.5")
    assert refused.code == 2, refused.err
    assert "nearest" in refused.err


def test_verify_finds_a_damaged_file_and_rebuild_removes_it(
    memos_with_model: Memos, ids: list[str], data_folder: Path
) -> None:
    memos_with_model("promote", *ids)
    assert memos_with_model("kv", "verify").code == 0
    (path,) = (data_folder / "kv").rglob("*.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    verified = memos_with_model("kv", "verify", "--json")
    assert (verified.code, verified.data[0]["problem"][:9]) == (1, "checksum:")
    rebuilt = memos_with_model("doctor", "--rebuild-kv")
    assert "1 dropped, 1 removed" in rebuilt.err
    assert not path.exists()


def test_removal_takes_files_and_leaves_memories(memos_with_model: Memos, ids: list[str]) -> None:
    memos_with_model("promote", *ids)
    assert memos_with_model("kv", "rm").code == 2
    assert "removed 1 KV files" in memos_with_model("kv", "rm", "--all").out
    assert len(memos_with_model("list", "--json").data) == 4


def test_refused_promotion_exits_with_an_error(memos_with_model: Memos, ids: list[str]) -> None:
    refused = memos_with_model("promote", ids[0])
    assert (refused.code, "too few to be worth" in " ".join(refused.out.split())) == (5, True)
    assert memos_with_model("promote", ids[0], "--to", "parametric", "--codec", "raw").code == 2
    assert memos_with_model("promote", ids[0], "--to", "elsewhere").code == 2
    assert memos_with_model("promote", "01900000-0000-7000-8000-000000000000").code == 3
    assert memos_with_model("demote", ids[0]).code == 2


def test_plan_says_what_it_would_move_and_moves_it(memos_with_model: Memos, ids: list[str]) -> None:
    for _ in range(30):
        memos_with_model("recall", "Where did the cat sleep?")
    (planned,) = memos_with_model("plan", "--dry-run", "--json").data
    assert (planned["action"], len(planned["sources"]), planned["id"]) == ("promote", len(ids), None)
    assert "1 would be moved" in memos_with_model("plan", "--dry-run").out
    (moved,) = memos_with_model("plan", "--json").data
    assert len(memos_with_model("kv", "ls", "--json").data) == 1
    assert "expected" in memos_with_model("moves").out
    assert memos_with_model("undo", moved["id"]).code == 0
    assert memos_with_model("kv", "ls", "--json").data == []
