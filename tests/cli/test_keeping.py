"""Commands about what must be kept and what was deleted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Memos = Callable[..., Any]


def test_hold_and_release(memos: Memos, stored: str) -> None:
    answer = memos("hold", stored, "--reason", "case 1")
    assert (answer.code, stored in answer.out.replace("\n", "")) == (0, True)
    (hold,) = memos("holds", "--json").data
    assert (hold["cube_id"], hold["reason"]) == (stored, "case 1")
    assert "case 1" in memos("holds").out
    refused = memos("forget", stored, "--json")
    assert (refused.code, refused.problem["code"], refused.problem["holds"]) == (4, "legal-hold", [hold["id"]])
    assert memos("hold", "--user", "u", "--json").data["cube_id"] is None
    assert memos("release", hold["id"]).out.startswith("released memory")
    assert memos("holds").out == "nothing is held\n"
    assert memos("release", hold["id"]).code == 3
    assert memos("forget", stored).code == 0


def test_retention(memos: Memos) -> None:
    assert memos("retention").out == "memories of 'default' are kept for good\n"
    assert memos("retention", "30").out == "memories of 'default' are kept for 30 days\n"
    assert memos("retention", "--user", "u", "--json").data == {"user_id": "u", "days": None}
    assert memos("retention", "0", "--json").data["days"] is None
    assert memos("retention", "--", "-1").code == 2


def test_receipt_from_a_file(memos: Memos, stored: str, tmp_path: Path) -> None:
    assert memos("export", str(tmp_path / "export.jsonl")).code == 0
    receipt = tmp_path / "receipt.json"
    receipt.write_text(memos("forget", stored, "--json").out)
    answer = memos("verify-receipt", str(receipt))
    assert (answer.code, answer.out.splitlines()[-1]) == (0, "the receipt holds")
    assert memos("verify-receipt", str(receipt), "--json").data["valid"]
    memos("import", str(tmp_path / "export.jsonl"))
    answer = memos("verify-receipt", str(receipt))
    assert (answer.code, answer.out.splitlines()[-1]) == (1, "the receipt does not hold")
    assert "exported files may still hold it" in memos("forget", stored).out


@pytest.mark.parametrize("content", [None, "no JSON", "[]", "{}"])
def test_file_that_holds_no_receipt(memos: Memos, tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "receipt.json").write_text(content)
    assert memos("verify-receipt", str(tmp_path / "receipt.json")).code == 2
