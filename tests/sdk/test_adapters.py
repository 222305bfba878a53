"""Adapters as the client sees them: the same fields as the engine's, and the same errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from memos.parametric.listing import AdapterInfo
from memos.store.statistics import Statistics
from memos_sdk import AsyncMemory, Memory, errors, types

METHODS = ("adapters", "adapter", "export_adapter", "import_adapter", "remove_adapter", "rollback_adapter")
NOBODY = "01900000-0000-7000-8000-000000000000"


def test_fields_are_those_of_the_engine() -> None:
    assert types.AdapterInfo.model_fields.keys() == AdapterInfo.model_fields.keys()
    assert types.Statistics.model_fields.keys() == Statistics.model_fields.keys()


@pytest.mark.parametrize("name", METHODS)
def test_both_clients_have_them(name: str) -> None:
    assert getattr(Memory, name).__doc__ == getattr(AsyncMemory, name).__doc__
    assert getattr(Memory, name).__annotations__ == getattr(AsyncMemory, name).__annotations__


def test_empty_store_has_none(memory: Memory, tmp_path: Path) -> None:
    assert memory.adapters(user_id="u") == []
    assert memory.stats(user_id="u").adapters == 0
    for call in (memory.adapter, memory.remove_adapter, memory.rollback_adapter):
        with pytest.raises(errors.NotFound):
            call(NOBODY)
    with pytest.raises(errors.NotFound):
        memory.export_adapter(NOBODY, path=tmp_path / "out")


def test_bad_arguments_are_refused(memory: Memory) -> None:
    with pytest.raises(errors.InvalidInput):
        memory.export_adapter(NOBODY, path="a\0b")
    with pytest.raises(errors.InvalidInput):
        memory.adapters(user_id=" ")
    with pytest.raises(errors.NotFound):
        memory.promote(["x"], to="parametric", options={})
