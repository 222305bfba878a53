"""The real command, in processes of its own, with the bundled model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

HEAVY = {"chromadb", "numpy", "sqlalchemy", "torch", "transformers", "memos_sdk"}


def run(*arguments: str, home: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = Path(sys.executable).with_name("memos")
    return subprocess.run(
        [command, "--home", str(home), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )


def test_store_recall_forget(tmp_path: Path) -> None:
    stored = run("store", "-", "--lines", "--json", home=tmp_path, stdin="I own a cat\nI ski\n")
    assert (stored.returncode, stored.stderr) == (0, "")
    cat, _ = json.loads(stored.stdout)
    asked = run("recall", "Which pet do I have?", "-k", "1", "--json", home=tmp_path)
    assert [hit["id"] for hit in json.loads(asked.stdout)["hits"]] == [cat["id"]]
    assert run("forget", cat["id"], home=tmp_path).stdout == "forgot 1 memory\n"
    gone = run("get", cat["id"], home=tmp_path)
    assert (gone.returncode, gone.stdout) == (3, "")
    healthy = run("doctor", home=tmp_path)
    assert (healthy.returncode, healthy.stderr) == (0, "")


def test_reader_that_stops_early(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("memos")
    pipe = f'"{command}" bench --json | head -c 1; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "Traceback" not in done.stderr


def test_help_loads_nothing_heavy() -> None:
    probe = (
        "import sys\nfrom memos.cli import main\nsys.argv = ['memos', 'recall', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert {name.partition(".")[0] for name in done.stderr.split()} & HEAVY == set()


def test_completion_knows_commands() -> None:
    words = {"_MEMOS_COMPLETE": "complete_bash", "COMP_WORDS": "memos re", "COMP_CWORD": "1"}
    command = Path(sys.executable).with_name("memos")
    done = subprocess.run([command], env={**os.environ, **words}, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["release", "retention", "recall", "refine", "reindex"]
