"""What a user chose for KV files: checked before it is written, each user's own, gone with the user's memories."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa

from memos.cube import Scope
from memos.engine import MemoryOS
from memos.errors import CompositionRefused, InvalidInput
from memos.store.kv_settings import KVSettings

ANN, BOB = Scope(user_id="ann"), Scope(user_id="bob")
#: Another tenant's user of the same name.
OTHER_ANN = Scope(tenant="other", user_id="ann")
CHAIN = "snapkv:0.5+zipcache"


def codec_of(engine: MemoryOS, scope: Scope = ANN, codec: str | None = None) -> str:
    """What a promotion of a memory would be compressed by."""
    (note,) = engine.store_many(scope, [{"text": "Ann adopted a cat"}])
    _, payload = engine.activation.check_promotion(scope.tenant, [note.id], "activation", scope.user_id, codec)
    return str(payload["codec"])


def test_nothing_chosen_is_as_the_process_is_set(engine: MemoryOS) -> None:
    assert engine.kv_settings(ANN) == KVSettings(user_id="ann")
    assert codec_of(engine) == engine.settings.kv_codec
    assert engine.activation.user_settings.composition(ANN, None, None) == (None, None)


def test_settings_are_replaced_whole(engine: MemoryOS) -> None:
    chosen = engine.set_kv_settings(ANN, codec="snapkv:0.50+zipcache", compose="blend", ratio=1)
    assert chosen == KVSettings(user_id="ann", codec=CHAIN, compose="blend", ratio=1.0) == engine.kv_settings(ANN)
    assert engine.set_kv_settings(ANN, compose="auto") == KVSettings(user_id="ann", compose="auto")
    assert engine.kv_settings(ANN) == KVSettings(user_id="ann", compose="auto")
    assert engine.set_kv_settings(ANN) == engine.kv_settings(ANN) == KVSettings(user_id="ann")


def test_settings_are_on_record(engine: MemoryOS) -> None:
    engine.set_kv_settings(ANN, codec="int8", ratio=0.5)
    with engine.database.read() as connection:
        rows = connection.execute(sa.text("SELECT detail FROM audit WHERE action = 'kv_settings'")).scalars().all()
    assert [json.loads(row) for row in rows] == [{"codec": "int8", "compose": None, "ratio": 0.5}]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"codec": "zip"}, InvalidInput),
        ({"codec": ""}, InvalidInput),
        ({"codec": 4}, InvalidInput),
        ({"codec": ["raw"]}, InvalidInput),
        ({"codec": "snapkv:1.5"}, InvalidInput),
        ({"codec": "snapkv:0.5+nothing"}, InvalidInput),
        ({"compose": "mix"}, CompositionRefused),
        ({"compose": "off"}, CompositionRefused),
        ({"compose": ""}, CompositionRefused),
        ({"compose": ["blend"]}, CompositionRefused),
        ({"ratio": -0.1}, CompositionRefused),
        ({"ratio": 1.01}, CompositionRefused),
        ({"ratio": float("nan")}, CompositionRefused),
        ({"ratio": 10**400}, CompositionRefused),
        ({"ratio": "0.5"}, InvalidInput),
        ({"ratio": True}, InvalidInput),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_written(
    engine: MemoryOS, wrong: dict[str, Any], error: type[InvalidInput]
) -> None:
    before = engine.set_kv_settings(ANN, codec="int8", compose="concat", ratio=0.25)
    good: dict[str, Any] = {"codec": CHAIN, "compose": "blend", "ratio": 0.5}
    with pytest.raises(error) as raised:
        engine.set_kv_settings(ANN, **{**good, **wrong})
    assert type(raised.value) is error
    assert engine.kv_settings(ANN) == before


def test_promotion_takes_the_codec_of_the_user_unless_it_names_one(engine: MemoryOS) -> None:
    engine.set_kv_settings(ANN, codec=CHAIN)
    assert codec_of(engine) == CHAIN
    assert codec_of(engine, codec="raw") == "raw"
    assert codec_of(engine, codec="auto") == "auto"


def test_prompt_is_composed_as_the_user_chose_unless_the_chat_names_something(engine: MemoryOS) -> None:
    engine.set_kv_settings(ANN, compose="concat", ratio=0.25)
    composition = engine.activation.user_settings.composition
    assert composition(ANN, None, None) == ("concat", 0.25)
    assert composition(ANN, "blend", None) == ("blend", 0.25)
    assert composition(ANN, "auto", 0.0) == (None, 0.0)
    engine.set_kv_settings(ANN, compose="auto")
    assert composition(ANN, None, None) == (None, None)
    assert composition(ANN, "ape", 1.0) == ("ape", 1.0)


def test_settings_are_of_one_user(engine: MemoryOS) -> None:
    engine.set_kv_settings(ANN, codec="int4", compose="concat", ratio=0.5)
    engine.set_kv_settings(OTHER_ANN, codec="int8")
    for scope, codec in ((BOB, "auto"), (OTHER_ANN, "int8"), (ANN, "int4")):
        assert codec_of(engine, scope) == codec
    for scope in (BOB, OTHER_ANN):
        assert engine.activation.user_settings.composition(scope, None, None) == (None, None)
    engine.set_kv_settings(OTHER_ANN)
    engine.forget_all(BOB)
    assert engine.kv_settings(ANN) == KVSettings(user_id="ann", codec="int4", compose="concat", ratio=0.5)


def test_settings_go_with_all_memories_of_the_user(engine: MemoryOS) -> None:
    (note,) = engine.store_many(ANN, [{"text": "Ann adopted a cat"}])
    for scope in (ANN, BOB):
        engine.set_kv_settings(scope, codec="int4")
    engine.forget("default", note.id)
    engine.forget_all(Scope(user_id="ann", agent_id="a"))
    assert engine.kv_settings(ANN).codec == "int4"  # they are no memory, and other ones may come
    engine.forget_all(ANN)
    assert engine.kv_settings(ANN) == KVSettings(user_id="ann")
    assert engine.kv_settings(BOB).codec == "int4"
