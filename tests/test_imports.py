"""Importing stays light: heavy libraries load on first use."""

from __future__ import annotations

import subprocess
import sys

import pytest

ENGINE_HEAVY = {"chromadb", "sentence_transformers", "torch", "transformers"}
#: Only a process with a broker has them.
BROKER = {"celery", "kombu", "redis", "memos_workers"}
SDK_HEAVY = ENGINE_HEAVY | {
    "memos",
    "memos_api",
    "memos_kernels",
    "memos_workers",
    "numpy",
    "sqlalchemy",
}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("memos_sdk", SDK_HEAVY),
        ("memos_sdk._embedded", SDK_HEAVY),
        ("memos", ENGINE_HEAVY),
        ("memos.engine", ENGINE_HEAVY | BROKER),
        ("memos_workers.worker", ENGINE_HEAVY | {"numpy", "sqlalchemy"}),
        ("memos.schedule.eviction.plan", ENGINE_HEAVY),
    ],
)
def test_import_stays_light(module: str, heavy: set[str]) -> None:
    assert loaded_packages(f"import {module}") & heavy == set()


def test_sdk_names_stay_light() -> None:
    """Every public name can be had without the engine: only an embedded ``Memory`` needs it."""
    assert loaded_packages("from memos_sdk import *") & SDK_HEAVY == set()


def loaded_packages(statement: str) -> set[str]:
    """Top-level packages in memory after `statement` ran in a fresh interpreter."""
    probe = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-W", "error", "-c", probe], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())
