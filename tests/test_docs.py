"""What the documents say is run or compared with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from memos.config import Settings
from memos_api.settings import ServiceSettings

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.timeout(600)  # loads the bundled model
def test_readme_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    scope: dict[str, object] = {}
    exec(compile(example + "\nmem.close()\n", "README.md", "exec"), scope)
    assert "Oslo" in scope["found"].context  # type: ignore[attr-defined]
    assert scope["receipt"].removed["cubes"] == 1  # type: ignore[attr-defined]


def test_guide_lists_every_setting_with_its_default() -> None:
    listed = dict(re.findall(r"^\| `MEMOS_(\w+)` \| (.*?) \|", (ROOT / "docs" / "guide.md").read_text(), re.MULTILINE))
    defaults = {name.upper(): field.default for name, field in Settings.model_fields.items()}
    defaults |= {f"API_{name.upper()}": field.default for name, field in ServiceSettings.model_fields.items()}
    assert listed.keys() == defaults.keys()
    shown = {name for name, value in defaults.items() if isinstance(value, int | str)}
    assert {name: listed[name] for name in shown} == {name: str(defaults[name]) for name in shown}


def test_decision_records_are_numbered_and_short() -> None:
    records = sorted(path for path in (ROOT / "docs" / "decisions").glob("*.md") if path.name != "README.md")
    assert [int(path.name[:3]) for path in records] == list(range(1, len(records) + 1))
    assert all(path.read_text().count("\n") <= 60 for path in records)


@pytest.mark.parametrize("path", ["README.md", "docs/guide.md", "CONTRIBUTING.md"])
def test_links_between_documents_resolve(path: str) -> None:
    text = (ROOT / path).read_text()
    targets = re.findall(r"\]\(([^)#:]+)\)", text)
    assert all((ROOT / path).parent.joinpath(target).exists() for target in targets)
