"""``python -m memos_kernels.triton_aot [--write FILE]``: compile every kernel; print or write the table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from memos_kernels.triton_aot.table import measured, table


def main() -> None:
    """Compile and write."""
    parser = argparse.ArgumentParser(prog="python -m memos_kernels.triton_aot", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE", help="instead of the standard output")
    path: Path | None = parser.parse_args().write
    text = table(measured().items())
    if path is None:
        sys.stdout.write(text)
    else:
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
