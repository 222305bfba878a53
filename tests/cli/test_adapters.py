"""``memos adapters`` on the real bundled model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from memos.parametric.adapter import Adapter, Factors
from memos.parametric.checks import Frame
from memos.parametric.peft_folder import write_folder
from memos.runtime.host import ModelHost

pytestmark = pytest.mark.timeout(300)  # the first one loads the model

Memos = Callable[..., Any]


@pytest.fixture
def folder(models: ModelHost, tmp_path: Path) -> Path:
    """A PEFT directory for the bundled model."""
    return peft_folder(models, tmp_path / "peft", 0.1)


def peft_folder(models: ModelHost, path: Path, value: float) -> Path:
    frame = Frame.of(models.serving().loaded)
    inputs, outputs = frame.sizes["mlp.down_proj"]
    factors = Factors(torch.full((2, inputs), value), torch.full((outputs, 2), value), 2.0)
    write_folder(Adapter(frame.base, {(3, "mlp.down_proj"): factors}), path)
    return path


def test_life_of_an_adapter(memos_with_model: Memos, models: ModelHost, folder: Path, tmp_path: Path) -> None:
    imported = memos_with_model("adapters", "import", str(folder), "--name", "style", "--json")
    assert (imported.code, imported.data["rank"], imported.data["parents"]) == (0, 2, [])
    first = imported.data["cube_id"]
    newer = peft_folder(models, tmp_path / "newer", 0.2)
    assert "imported" in memos_with_model("adapters", "import", str(newer), "--name", "style").out
    listed = memos_with_model("adapters", "ls", "--json").data
    assert [(one["state"], one["version"]) for one in listed] == [("superseded", 1), ("published", 2)]
    assert "2 adapters" in memos_with_model("adapters", "ls").out
    second = listed[1]["cube_id"]
    assert f"serving {first}, version 1" in memos_with_model("adapters", "rollback", second).out
    shown = memos_with_model("adapters", "show", first)
    assert "only where a request names it" in " ".join(shown.out.split())
    assert memos_with_model("adapters", "export", first, str(tmp_path / "out")).code == 0
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
    assert memos_with_model("stats", "--json").data["adapters"] == 1
    assert "removed 1 adapters" in memos_with_model("adapters", "rm", first).out
    assert "removed 1 adapters" in memos_with_model("adapters", "rm", "--all").out
    assert memos_with_model("adapters", "ls", "--json").data == []


def test_mistakes_exit_with_their_codes(memos_with_model: Memos, folder: Path, tmp_path: Path) -> None:
    nobody = "01900000-0000-7000-8000-000000000000"
    (stored,) = memos_with_model("store", "Ann adopted a cat", "--lines", "--json").data
    for words in (("show",), ("rollback",), ("rm",)):
        assert memos_with_model("adapters", *words, nobody).code == 3
        assert memos_with_model("adapters", *words, stored["id"]).code == 3
    assert memos_with_model("adapters", "export", nobody, str(tmp_path / "out")).code == 3
    assert memos_with_model("adapters", "rm").code == 2
    assert memos_with_model("adapters", "import", str(tmp_path / "nothing")).code == 2
    (folder / "adapter_model.safetensors").write_bytes(b"cut")
    refused = memos_with_model("adapters", "import", str(folder), "--json")
    assert (refused.code, refused.problem["code"]) == (2, "adapter-refused")
    assert memos_with_model("adapters", "ls", "--json").data == []


def test_adapters_of_another_user_are_not_listed(memos_with_model: Memos, folder: Path) -> None:
    cube_id = memos_with_model("adapters", "import", str(folder), "--user", "ann", "--json").data["cube_id"]
    assert memos_with_model("adapters", "ls", "--user", "bob", "--json").data == []
    assert memos_with_model("adapters", "show", cube_id, "--user", "bob").code == 3
    assert memos_with_model("adapters", "rm", cube_id, "--user", "bob").code == 3
    assert len(memos_with_model("adapters", "ls", "--user", "ann", "--json").data) == 1
