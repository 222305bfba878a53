"""The ``memos`` command.

Exit codes: 0 done; 1 ``doctor`` found an error, or an answer was no; 2 wrong usage or input; 3 no such memory;
4 a conflict; 5 the store is in use, full, out of reach or cannot be opened; 130 interrupted.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from memos.cli.app import app  # `import memos.cli` costs nothing

    app()
