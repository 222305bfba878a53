"""Commands that show what this can do: demo, bench."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType

import memos
from memos.cli import output
from memos.cli.command import command
from memos.cli.session import Session


def demo(session: Session) -> None:
    """Store two friends' conversation and a book, ask questions, forget something; in a temporary store."""
    from memos.demo.run import run_demo

    run_demo(session.out, json=session.json, embedder=session.embedder)


def bench(
    session: Session,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Which one to run.")] = None,
    arguments: Annotated[list[str] | None, typer.Argument(metavar="-- ARGS", help="Passed on to it.")] = None,
) -> None:
    """List the benchmarks of a checkout, or run one."""
    scripts = _benchmarks(Path(memos.__file__).resolve().parent.parent / "benchmarks")
    if name is None:
        listed = [{"name": each, "about": about} for each, (_, about) in scripts.items()]
        session.show(listed, lambda: _listed(listed))
        return
    if name not in scripts:
        raise typer.BadParameter(f"no benchmark {name!r}; there are: {', '.join(scripts)}")
    done = subprocess.run([sys.executable, str(scripts[name][0]), *(arguments or [])], check=False).returncode
    if done:
        raise typer.Exit(done if done > 0 else 128 - done)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    command(app)(demo)
    command(app)(bench)


def _benchmarks(folder: Path) -> dict[str, tuple[Path, str]]:
    """Return the scripts of a folder that can be run, by name, each with the first line of its docstring."""
    if not folder.is_dir():
        raise typer.BadParameter(
            "benchmarks come with the source, not with the installed package; run this from a checkout"
        )
    found = {}
    for path in sorted(folder.glob("*.py")):
        source = path.read_text(encoding="utf-8")
        if "__main__" in source:
            about = ast.get_docstring(ast.parse(source)) or ""
            found[path.stem] = (path, about.partition("\n")[0])
    return found


def _listed(scripts: list[dict[str, Any]]) -> RenderableType:
    made = output.table("benchmark", "", narrow=("benchmark",))
    for script in scripts:
        made.add_row(script["name"], output.plain(script["about"]))
    return made
