"""Every command: what it prints for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Memos = Callable[..., Any]


def test_store_prints_id(memos: Memos) -> None:
    answer = memos("store", "Ann has a cat")
    assert (answer.code, answer.err) == (0, "")
    assert memos("get", answer.out.split()[-1], "--json").data["text"] == "Ann has a cat"


def test_store_takes_all_options(memos: Memos) -> None:
    options = ["--event-time", "2025-01-09", "--expires-at", "2999-01-01", "--no-infer"]
    whose = ["--user", "u", "--agent", "a", "--run", "r"]
    cube = memos("store", "x", "--metadata", '{"n": 1}', *options, *whose, "--json").data
    assert cube["scope"] == {"tenant": "default", "user_id": "u", "agent_id": "a", "run_id": "r"}
    assert (cube["metadata"], cube["time"]["event_time"]) == ({"n": 1}, "2025-01-09T00:00:00Z")
    assert cube["provenance"]["infer"] is False


def test_store_reads_stdin(memos: Memos) -> None:
    assert memos("store", "-", "--json", input="two\nlines\n").data["text"] == "two\nlines"
    cubes = memos("store", "-", "--lines", "--json", input="one\n\ntwo\n").data
    assert [cube["text"] for cube in cubes] == ["one", "two"]


def test_store_twice_under_one_key(memos: Memos) -> None:
    ids = {memos("store", "x", "--idempotency-key", "k", "--json").data["id"] for _ in range(2)}
    assert len(ids) == 1


def test_recall_shows_table(memos: Memos, stored: str) -> None:
    answer = memos("recall", "which cat?")
    assert answer.out.split()[:4] == ["score", "when", "who", "text"]
    assert "adopted a cat" in answer.out
    hits = memos("recall", "which cat?", "--json").data["hits"]
    assert [hit["id"] for hit in hits] == [stored]


def test_recall_explains(memos: Memos, stored: str) -> None:
    answer = memos("recall", "which cat?", "--explain")
    assert "lexical" in answer.out
    assert "rank" in answer.out


def test_recall_prints_context(memos: Memos, stored: str) -> None:
    assert memos("recall", "cat", "--context").out.endswith("] Ann: I adopted a cat\n")
    assert memos("recall", "cat", "--context", "--max-tokens", "1").out == "\n"


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (["--filters", '{"metadata.topic": "pets"}'], 1),
        (["--filters", '{"metadata.topic": "cars"}'], 0),
        (["--as-of", "2001-01-01"], 0),
        (["--user", "bob"], 0),
        (["--run", "r"], 0),
        (["-k", "1"], 1),
    ],
)
def test_recall_narrows(memos: Memos, stored: str, options: list[str], count: int) -> None:
    assert len(memos("recall", "cat", *options, "--json").data["hits"]) == count


def test_recall_of_nothing(memos: Memos) -> None:
    assert memos("recall", "cat").out == "nothing found\n"
    assert memos("list").out == "nothing stored\n"


def test_options_before_command_hold(memos: Memos) -> None:
    memos("--user", "u", "store", "x")
    assert len(memos("--user", "u", "--json", "list").data) == 1
    assert memos("--user", "u", "--json", "list", "--user", "v").data == []


def test_list_pages(memos: Memos) -> None:
    memos("store", "-", "--lines", input="one\ntwo\nthree\n")
    first = memos("list", "-n", "2", "--json").data
    rest = memos("list", "--after", first[-1]["id"], "--json").data
    assert [cube["text"] for cube in [*first, *rest]] == ["one", "two", "three"]
    assert "three" in memos("list").out


def test_update_makes_version(memos: Memos, stored: str) -> None:
    answer = memos("update", stored, "--text", "Ann: two cats", "--expected-version", "1")
    assert answer.out == f"{stored} is now at version 2\n"
    versions = memos("history", stored, "--json").data
    assert [version["text"] for version in versions] == ["Ann: I adopted a cat", "Ann: two cats"]
    assert "update" in memos("history", stored).out


def test_get_shows_all(memos: Memos, stored: str) -> None:
    out = memos("get", stored).out
    assert stored in out
    assert "metadata.topic" in out
    assert out.endswith("Ann: I adopted a cat\n")


def test_forget_one(memos: Memos, stored: str) -> None:
    assert memos("forget", stored).out == "forgot 1 memory\n"
    assert memos("get", stored).code == 3


def test_forget_all_of_run(memos: Memos, stored: str) -> None:
    memos("store", "x", "--run", "r")
    assert memos("forget", "--all", "--run", "r", "--yes", "--json").data["removed"]["cubes"] == 1
    assert len(memos("list", "--json").data) == 1


def test_forget_all_asks(memos: Memos, stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert memos("forget", "--all").code == 2  # nobody to ask
    monkeypatch.setattr("memos.cli.keep._can_ask", lambda: True)
    assert memos("forget", "--all", input="n\n").code == 1
    assert len(memos("list", "--json").data) == 1
    assert memos("forget", "--all", input="y\n").code == 0
    assert memos("list", "--json").data == []


def test_export_and_import(memos: Memos, stored: str, tmp_path: Path) -> None:
    path = str(tmp_path / "out.jsonl")
    assert memos("export", path).out.replace("\n", "") == f"exported 1 memory to {path}"
    memos("forget", stored)
    assert memos("import", path).out == "imported 1 memory (memos-export)\n"
    again = memos("import", path, "--json").data
    assert (again["imported"], again["skipped"]) == (0, 1)
    assert memos("get", stored).code == 0


def test_backup_and_restore(memos: Memos, stored: str, tmp_path: Path) -> None:
    path = str(tmp_path / "backup.tar.zst")
    assert "backed up 1 memory of 1 users" in " ".join(memos("backup", path).out.split())
    assert memos("backup", path, "--all", "--json").data["memories"] == 1
    assert memos("backup", path, "--all", "--user", "u").code == 2
    assert memos("backup", path, "--user", "nobody").code == 3
    assert memos("backup", path, "--tenant", "other").code == 3
    memos("update", stored, "--text", "Ann: I adopted a dog")
    assert memos("restore", path).code == 4
    assert "restored 1 memory of 1 users" in " ".join(memos("restore", path, "--replace").out.split())
    assert memos("get", stored, "--json").data["text"] == "Ann: I adopted a cat"
    (tmp_path / "backup.tar.zst").write_bytes(b"damaged")
    assert memos("restore", path, "--json").problem["code"] == "backup-refused"


def test_doctor_repairs(memos: Memos, stored: str, data_folder: Path) -> None:
    assert memos("doctor", "--repair").err == "nothing to repair\n"
    stray = data_folder / "kv" / "ee" / f"{'e' * 64}.safetensors"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"nobody's")
    assert "1 KV files" in " ".join(memos("doctor").out.split())
    answer = memos("doctor", "--repair", "--json")
    assert [one["done"] for one in answer.data["repairs"]] == ["removed 1 KV files that belonged to nothing"]
    assert (answer.data["healthy"], stray.exists()) == (True, False)


def test_export_to_stdout(memos: Memos, stored: str) -> None:
    header, memory = memos("export", "-").out.splitlines()
    assert json.loads(header)["memories"] == 1
    assert json.loads(memory)["id"] == stored


def test_import_shows_rejected_lines(memos: Memos, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a"}\n' + "bad\n" * 30)
    answer = memos("import", str(path))
    assert answer.code == 0
    assert "30 could not be used" in answer.out
    assert "and 10 more" in answer.out
    strict = memos("import", str(path), "--strict", "--json")
    assert (strict.code, strict.problem["line"]) == (2, 2)
    path.write_text("bad\n" * 2)
    assert memos("import", str(path)).code == 2


def test_stats(memos: Memos, stored: str) -> None:
    assert memos("stats", "--json").data["memories"] == 1
    assert "memories" in memos("stats").out


def test_reindex(memos: Memos, stored: str) -> None:
    assert memos("reindex", "--json").data == {"namespaces": 1}
    assert memos("reindex").out == "rebuilt 1 namespaces\n"


def test_doctor(memos: Memos, stored: str, data_folder: Path) -> None:
    report = memos("doctor", "--json")
    assert (report.code, report.data["healthy"]) == (0, True)
    (data_folder / "memos.db").write_bytes(b"nonsense" * 1_000)
    broken = memos("doctor")
    assert broken.code == 1
    assert "damaged" in broken.out


def test_bench_lists(memos: Memos) -> None:
    names = [each["name"] for each in memos("bench", "--json").data]
    assert "recall_quality" in names
    assert "harness" not in names
    assert memos("bench", "nonsense").code == 2


def test_bench_runs(memos: Memos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memos").mkdir()
    monkeypatch.setattr("memos.__file__", str(tmp_path / "memos" / "__init__.py"))
    missing = memos("bench")
    assert (missing.code, "checkout" in missing.err) == (2, True)
    (tmp_path / "benchmarks").mkdir()
    script = tmp_path / "benchmarks" / "tiny.py"
    script.write_text('"""Tiny."""\nimport sys\nif __name__ == "__main__":\n    sys.exit(int(sys.argv[1]))\n')
    assert memos("bench", "--json").data == [{"name": "tiny", "about": "Tiny."}]
    assert memos("bench", "tiny", "--", "7").code == 7


def test_text_cannot_steer_terminal(memos: Memos) -> None:
    memos("store", "[bold]x[/bold] \x1b[31mred\x07")
    for command in (["list"], ["recall", "x"]):
        out = memos(*command).out
        assert "[bold]x[/bold]" in out
        assert "\x1b" not in out
        assert "\x07" not in out
