"""Guards of the folder layout: names that would shadow other people's packages (docs/decisions)."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("folder", ["api", "workers", "kernels", "sdk"])
def test_folder_is_no_package(repository: Path, folder: str) -> None:
    assert not (repository / folder / "__init__.py").exists()


def test_tests_hold_no_package(repository: Path) -> None:
    assert list((repository / "tests").rglob("__init__.py")) == []


def test_pytest_imports_by_path(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.getoption("importmode") == "importlib"


def test_transformers_ignores_kernels_folder(repository: Path) -> None:
    """A directory called ``kernels`` on the path must not be taken for the package of that name."""
    probe = "from transformers.utils import is_kernels_available; print(is_kernels_available())"
    result = subprocess.run([sys.executable, "-c", probe], cwd=repository, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout.strip()) == (0, "False"), result.stderr
