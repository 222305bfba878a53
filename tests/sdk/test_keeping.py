"""Holds, retention and receipts, through every kind of client."""

from __future__ import annotations

from pathlib import Path

import pytest

import memos.receipts.check as engine_check
import memos.receipts.receipt as engine_receipt
import memos.store.exports as engine_exports
import memos.store.holds as engine_holds
from memos_sdk import Memory, types
from memos_sdk.errors import InvalidInput, LegalHold, NotFound


def test_models_agree() -> None:
    for theirs, ours in (
        (engine_receipt.DeletionReceipt, types.DeletionReceipt),
        (engine_exports.ExportRecord, types.ExportRecord),
        (engine_check.ReceiptCheck, types.ReceiptCheck),
        (engine_check.Check, types.Check),
        (engine_holds.Hold, types.Hold),
        (engine_holds.Retention, types.Retention),
    ):
        assert theirs.model_fields.keys() == ours.model_fields.keys()


def test_hold_until_it_is_released(memory: Memory) -> None:
    cube = memory.store("kept", user_id="u")
    hold = memory.hold(cube.id, reason="case 1")
    assert (hold.cube_id, hold.user_id, hold.reason) == (cube.id, "u", "case 1")
    assert memory.holds(user_id="u") == [hold]
    with pytest.raises(LegalHold, match="release the hold first") as caught:
        memory.forget(cube.id)
    assert caught.value.holds == (hold.id,)
    whole = memory.hold(user_id="u")
    assert memory.release(hold) == hold
    with pytest.raises(LegalHold):
        memory.forget_all(user_id="u")
    assert memory.release(whole.id) == whole
    assert memory.forget_all(user_id="u").removed["cubes"] == 1
    for wrong in (whole.id, "x", ""):
        with pytest.raises(NotFound, match="no legal hold"):
            memory.release(wrong)


def test_retention_of_a_user(memory: Memory) -> None:
    assert memory.retention(user_id="u").days is None
    assert memory.retention(user_id="u", days=30).days == 30
    assert (memory.retention(user_id="u").days, memory.retention().days) == (30, None)
    assert memory.retention(user_id="u", days=0).days is None
    with pytest.raises(InvalidInput, match="days"):
        memory.retention(days=-1)


def test_receipt_is_checked(memory: Memory, tmp_path: Path) -> None:
    cube = memory.store("a secret", user_id="u")
    memory.export(tmp_path / "export.jsonl", user_id="u")
    receipt = memory.forget(cube.id)
    (export,) = receipt.exports
    assert export.memories == 1
    kept = types.DeletionReceipt.model_validate_json(receipt.model_dump_json())  # as after years in a file
    found = memory.verify_receipt(kept)
    assert found.valid, found
    assert memory.verify_receipt(receipt.model_dump(mode="json")) == found
    assert not memory.verify_receipt(receipt.model_copy(update={"removed": {}})).valid
    memory.import_(tmp_path / "export.jsonl", user_id="u")
    assert not memory.verify_receipt(receipt).valid
    with pytest.raises(InvalidInput, match="receipt"):
        memory.verify_receipt({})
