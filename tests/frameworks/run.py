"""Run each check in an environment with the real framework: ``make frameworks``, or with names to run only those.

An environment holds what the SDK's extra asks for and sees the project's own packages behind that, so that nothing
large is installed twice. The server that the checks talk to runs with the project's packages alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ROOT / ".venv-frameworks"
FRAMEWORKS = ("langgraph", "langchain", "llamaindex", "openai-agents")
#: What an environment depends on; it is installed anew when one of these is younger.
INPUTS = (ROOT / "sdk" / "pyproject.toml", Path(__file__))
#: Warnings of a framework are its own affair; those that our adapter causes are errors.
WARNINGS = "filterwarnings=ignore\nerror:::memos_sdk"
#: Nothing of the user's own settings, and no network.
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith("MEMOS_")} | {
    "ANONYMIZED_TELEMETRY": "False",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}


def main(names: Sequence[str]) -> int:
    """Check the named frameworks, all by default; return how many failed."""
    unknown = set(names) - set(FRAMEWORKS)
    if unknown:
        sys.exit(f"unknown: {' '.join(sorted(unknown))}; there are {' '.join(FRAMEWORKS)}")
    chosen = names or FRAMEWORKS
    pythons = {name: environment(name) for name in chosen}
    with running_server() as server:
        failed = [name for name in chosen if not check(name, pythons[name], server)]
    sys.stdout.write(f"frameworks: {len(chosen) - len(failed)} passed, {len(failed)} failed {' '.join(failed)}\n")
    return len(failed)


def environment(name: str) -> Path:
    """Return the Python of a framework's environment, which is made if it is not there or out of date."""
    folder = ENVIRONMENTS / name
    python, stamp = folder / "bin" / "python", folder / ".installed"
    if stamp.exists() and stamp.stat().st_mtime > max(path.stat().st_mtime for path in INPUTS):
        return python
    sys.stdout.write(f"Installing {name} ...\n")
    sys.stdout.flush()
    stamp.unlink(missing_ok=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    # Without our constraints.txt: what a framework pins for itself may be another version than the project's own.
    install: list[str | Path] = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*install, "-e", f"{ROOT / 'sdk'}[{name}]"], check=True)
    ours = sysconfig.get_path("purelib")
    theirs = next(folder.glob("lib/python*/site-packages"))
    # `addsitedir` comes last on the path, and takes editable installs along.
    (theirs / "project.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    stamp.touch()
    return python


@contextmanager
def running_server() -> Iterator[str]:
    """Run a server until the block ends; yield its address and key as JSON."""
    with tempfile.TemporaryDirectory() as home:
        command: list[str | Path] = [sys.executable, Path(__file__).with_name("server.py"), home]
        with subprocess.Popen(command, env=ENVIRON, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                yield process.stdout.readline() or sys.exit("the server did not start; see above")
            finally:
                process.terminate()


def check(name: str, python: Path, server: str) -> bool:
    """Run the checks of one framework; return whether they passed."""
    here = Path(__file__).parent
    files = [here / "check_imports.py", here / f"check_{name.replace('-', '_')}.py"]
    command: list[str | Path] = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", WARNINGS, *files]
    sys.stdout.write(f"== {name}\n")
    sys.stdout.flush()
    environ = ENVIRON | {"FRAMEWORKS_SERVER": server}
    return subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
