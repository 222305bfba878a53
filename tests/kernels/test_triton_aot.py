"""Every Triton kernel compiles to machine code for sm_80 and sm_90, without a GPU, and spills no register.

Under ``make soak`` every launch is compiled for both; else every eighth, for one of them in turn.

Other tests of this process may interpret kernels, which is decided when Triton is imported: these compile in a process
of their own, with a cache that goes when they do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TABLE = Path(__file__).parents[2] / "docs" / "kernels-gpu.md"
#: Operations that take about as long to compile.
GROUPS = (("attention",), ("quantise",), ("scores",), ("load", "lora", "lse", "pages", "rotate"))

#: Compile what operations launch; say what it takes, and which lines only they or only the table has.
COMPILE = """
import json, sys
from pathlib import Path
from memos_kernels.triton_aot import TARGETS, compiled
from memos_kernels.triton_aot.table import lines, read
text, both, *operations = sys.argv[1:]
written = {line for line in read(Path(text).read_text(encoding="utf-8")) if line.operation in operations}
found = {line: launch for operation in operations for line, launch in lines(operation).items()}
targets = list(TARGETS)
chosen = [
    targets if both else [targets[place // 8 % len(targets)]] if place % 8 == 0 else [] for place in range(len(found))
]
taken = [
    (line, TARGETS[target], *compiled(launch, target))
    for (line, launch), some in zip(found.items(), chosen) for target in some
]
print(json.dumps([taken, sorted(written ^ set(found))]))
"""

COMPILE_ONES = """
import torch
from memos_kernels.triton_aot import compiled
from memos_kernels.triton_aot.cases import OPERATIONS, Case, launches
for operation in OPERATIONS:
    for launch in launches(operation, Case(torch.float16, head_dim=2, many=1)):
        compiled(launch, 90)
print(*OPERATIONS)
"""


def run(program: str, cache: Path, *arguments: str) -> str:
    """Return what a program prints where Triton compiles, with its cache in a temporary directory."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(cache / "triton"), "TMPDIR": str(cache), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("operations", GROUPS, ids="-".join)
def test_kernels_compile_without_spilling(operations: tuple[str, ...], tmp_path: Path) -> None:
    both = "both" if os.environ.get("HYPOTHESIS_PROFILE") == "soak" else ""
    taken, differences = json.loads(run(COMPILE, tmp_path, str(TABLE), both, *operations))
    assert differences == []
    for line, most_shared, registers, spilled, shared in taken:
        assert spilled == 0, line
        assert 0 < registers <= 255, line
        assert shared <= most_shared, line


def test_kernels_compile_where_every_size_is_one(tmp_path: Path) -> None:
    # Triton makes a constant of an argument that is 1, which some expressions cannot take.
    operations = run(COMPILE_ONES, tmp_path).split()
    assert operations == sorted(name for group in GROUPS for name in group)
