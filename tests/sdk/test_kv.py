"""KV files and their settings, through every kind of client."""

from __future__ import annotations

from typing import Any

import pytest

import memos.activation.listing as engine_listing
import memos.store.kv_settings as engine_settings
from memos_sdk import Memory, types
from memos_sdk.errors import CompositionRefused, InvalidInput


def test_models_agree() -> None:
    for theirs, ours in (
        (engine_listing.KVFile, types.KVFile),
        (engine_settings.KVSettings, types.KVSettings),
    ):
        assert theirs.model_fields.keys() == ours.model_fields.keys()


def test_settings_of_a_user(memory: Memory) -> None:
    nothing = types.KVSettings(user_id="u")
    assert memory.kv_settings(user_id="u") == nothing
    chosen = memory.set_kv_settings(codec="cake:0.6+transform", compose="concat", ratio=0.25, user_id="u")
    assert chosen == types.KVSettings(user_id="u", codec="cake:0.6+transform", compose="concat", ratio=0.25)
    assert memory.kv_settings(user_id="u") == chosen
    assert memory.kv_settings() == types.KVSettings(user_id="default")
    assert memory.set_kv_settings(user_id="u") == memory.kv_settings(user_id="u") == nothing
    assert memory.kv_files(user_id="u") == []


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"codec": "zip"}, InvalidInput),
        ({"compose": "mix"}, CompositionRefused),
        ({"ratio": 2}, CompositionRefused),
        ({"ratio": "half"}, InvalidInput),
        ({"user_id": ""}, InvalidInput),
    ],
)
def test_what_cannot_be_used_is_refused(memory: Memory, wrong: dict[str, Any], error: type[InvalidInput]) -> None:
    with pytest.raises(error):
        memory.set_kv_settings(**wrong)
    assert memory.kv_settings() == types.KVSettings(user_id="default")
