"""What every benchmark shares: arguments, machine description, tables, JSON, bootstrap intervals."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"


@dataclass
class Report:
    """What a run found; :meth:`finish` prints it and writes the JSON file of the shared convention."""

    name: str
    arguments: argparse.Namespace
    figures: dict[str, float | None] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def missing(self, key: str, why: str) -> None:
        """Record a figure that could not be measured."""
        self.figures[key] = None
        self.notes.append(f"{key}: {why}")

    def without_data(self, *keys: str) -> int:
        """Record that figures need the evaluation data, and finish; return the exit status."""
        for key in keys:
            self.missing(key, "--data names no folder with the evaluation data")
        self.finish()
        return 0

    def finish(self) -> None:
        """Print figures and notes; write JSON where asked to."""
        print()
        for key, value in self.figures.items():
            print(f"FIGURE {key} = {'not measured' if value is None else f'{value:.4g}'}")
        for note in self.notes:
            print(f"note: {note}")
        self.save()

    def save(self) -> None:
        """Write JSON where asked to; a long run does so after each part."""
        if self.arguments.json:
            Path(self.arguments.json).parent.mkdir(parents=True, exist_ok=True)
            Path(self.arguments.json).write_text(json.dumps(self._document(), indent=1) + "\n")

    def resume(self) -> None:
        """Begin with what the JSON file holds, where only parts are measured again."""
        file = Path(self.arguments.json or "")
        if file.is_file():
            earlier = json.loads(file.read_text())
            self.figures, self.rows = earlier["figures"], earlier["rows"]
            at = f"parts of it were measured at {earlier['commit']}"
            self.notes = list(dict.fromkeys([*earlier["notes"], at]))

    def begin(self, parts: Sequence[str]) -> list[str]:
        """Return those of all ``parts`` that ``--parts`` asks for.

        Unless that is all, the JSON file's other rows (by their ``part``) are kept, and notes that begin otherwise.
        """
        chosen: list[str] = self.arguments.parts.split(",")
        if unknown := set(chosen) - set(parts):
            raise SystemExit(f"--parts: there is no {', '.join(sorted(unknown))} among {', '.join(parts)}")
        if set(chosen) != set(parts):
            self.resume()
            self.rows = [row for row in self.rows if row["part"] not in chosen]
            self.notes = [note for note in self.notes if not note.startswith(tuple(f"{part}: " for part in chosen))]
        return chosen

    def _document(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "quick": bool(self.arguments.quick),
            "commit": commit(),
            "command": " ".join(["python", f"benchmarks/{self.name}.py", *_portable(sys.argv[1:])]),
            "machine": machine(),
            "figures": self.figures,
            "rows": self.rows,
            "notes": self.notes,
        }


def peer_python(name: str, packages: Sequence[str]) -> str:
    """Return the interpreter of an environment with a peer's packages, made on the first call in ``.bench/``."""
    folder = ROOT / ".bench" / name
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"installing {name} into .bench/{name} ...", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
        (folder / "ready").touch()
    return str(python)


def parser(description: str, *, data: bool = False, parts: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return a parser with the options every benchmark takes; :meth:`Report.begin` reads that for ``parts``."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", metavar="FILE", help="write the result here")
    made.add_argument("--quick", action="store_true", help="smaller sizes, same method, <= 5 minutes")
    if parts:
        made.add_argument("--parts", default=",".join(parts), help="measure these alone, and keep the rest of --json")
    if data:
        default = os.environ.get("MEMOS_EVAL_DATA")
        made.add_argument(
            "--data",
            metavar="DIR",
            default=default,
            help="evaluation data (default: MEMOS_EVAL_DATA)",
        )
    return made


def machine() -> dict[str, Any]:
    """Describe this machine."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "device": "cpu",
        "python": platform.python_version(),
    }


def commit() -> str:
    """Return the short hash of the checkout, with a mark if it has uncommitted changes."""
    run = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"],
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout.strip() or "unknown"


def table(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows as aligned tables, one for each run of rows with equal keys."""
    for _, alike in groupby(rows, key=tuple):
        _print(list(alike))


def _print(rows: Sequence[dict[str, Any]]) -> None:
    lines = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        print(
            "  ".join(
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
        )


def interval(values: Sequence[float], rounds: int = 2_000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean, resampling with a fixed seed."""
    sample = np.asarray(values, float)
    picks = np.random.default_rng(0).integers(0, len(sample), (rounds, len(sample)))
    means = sample[picks].mean(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "-" if value is None else str(value)


def _portable(arguments: Sequence[str]) -> list[str]:
    """Keep the committed command free of this machine's absolute paths."""
    return [Path(item).name if item.startswith("/") else item for item in arguments]
