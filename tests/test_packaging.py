"""What the two distributions contain and require."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tomllib
from email.parser import Parser
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from email.message import Message

PACKAGES = {"memos", "memos_api", "memos_kernels", "memos_workers"}
OURS = {"agent-memos", "agent-memos-sdk"}
FRAMEWORKS = {"langgraph", "langchain", "llamaindex", "openai-agents"}
UNPINNED = {"triton"}  # torch names the exact version that belongs to it


@pytest.fixture(scope="module")
def engine_wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(repository, tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module")
def sdk_wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that it can lean on nothing else in the repository."""
    folder = tmp_path_factory.mktemp("sdk")
    shutil.copytree(repository / "sdk", folder / "source")
    return build_wheel(folder / "source", folder)


def test_engine_wheel_holds_packages(engine_wheel: Path) -> None:
    names = file_names(engine_wheel)
    assert top_level(names) == PACKAGES
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert not any("tests" in Path(name).parts for name in names)


def test_engine_wheel_holds_migrations(engine_wheel: Path, repository: Path) -> None:
    sources = {path.relative_to(repository / "migrations") for path in (repository / "migrations").rglob("*.py")}
    assert sources
    assert {f"memos/_migrations/{path.as_posix()}" for path in sources} <= file_names(engine_wheel)


def test_engine_wheel_migrates_store(engine_wheel: Path, tmp_path: Path) -> None:
    """An installed package creates and migrates a store without the checkout."""
    installed = tmp_path / "installed"
    with ZipFile(engine_wheel) as archive:
        archive.extractall(installed)
    probe = "import memos.store.database as module\nmodule.Database('sqlite:///new.db').close()\nprint(module.__file__)"
    environment = os.environ | {"PYTHONPATH": str(installed)}
    result = subprocess.run(
        [sys.executable, "-c", probe],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).is_relative_to(installed)
    with contextlib.closing(sqlite3.connect(tmp_path / "new.db")) as database:
        assert database.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)


def test_engine_wheel_offers_command(engine_wheel: Path) -> None:
    with ZipFile(engine_wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert "memos = memos.cli:main" in archive.read(name).decode()


def test_sdk_wheel_holds_one_package(sdk_wheel: Path) -> None:
    names = file_names(sdk_wheel)
    assert top_level(names) == {"memos_sdk"}
    assert "memos_sdk/py.typed" in names


def test_sdk_wheel_requires_little(sdk_wheel: Path) -> None:
    required = [Requirement(line) for line in metadata(sdk_wheel).get_all("Requires-Dist", [])]
    assert {each.name for each in required if each.marker is None} == {"httpx", "pydantic"}


def test_versions_agree(engine_wheel: Path, sdk_wheel: Path) -> None:
    assert metadata(engine_wheel)["Version"] == metadata(sdk_wheel)["Version"]


def test_constraints_pin_everything(repository: Path) -> None:
    """One exact version for each direct dependency, within the range that its project declares."""
    lines = (repository / "constraints.txt").read_text().splitlines()
    matches = [re.fullmatch(r"([\w.-]+)==([0-9][0-9a-z.]*)", line) for line in lines if line[:1] != "#"]
    assert all(matches), "a line that is neither a comment nor NAME==VERSION"
    pins = {canonicalize_name(match[1]): match[2] for match in matches if match}
    for requirement in declared_requirements(repository):
        name = canonicalize_name(requirement.name)
        if name not in OURS | UNPINNED:
            assert requirement.specifier.contains(pins[name]), f"{requirement} but {name}=={pins[name]}"


def declared_requirements(repository: Path) -> list[Requirement]:
    """Runtime and optional dependencies of both distributions, but agent frameworks: each has its own environment."""
    found: list[Requirement] = []
    for file in (repository / "pyproject.toml", repository / "sdk" / "pyproject.toml"):
        project = tomllib.loads(file.read_text())["project"]
        optional = project["optional-dependencies"]
        groups = [project["dependencies"], *(group for name, group in optional.items() if name not in FRAMEWORKS)]
        found += [Requirement(line) for group in groups for line in group]
    return found


def build_wheel(source: Path, target: Path) -> Path:
    """Build the distribution at `source` with what is installed here; no network."""
    command = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--wheel",
        "--outdir",
        str(target),
        str(source),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = target.glob("*.whl")
    return wheel


def file_names(wheel: Path) -> set[str]:
    """Paths inside the wheel."""
    with ZipFile(wheel) as archive:
        return set(archive.namelist())


def top_level(names: set[str]) -> set[str]:
    """First path components other than the wheel's own metadata."""
    return {first for first in (name.partition("/")[0] for name in names) if not first.endswith(".dist-info")}


def metadata(wheel: Path) -> Message:
    """The wheel's METADATA."""
    with ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())
