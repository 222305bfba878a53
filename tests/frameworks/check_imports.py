"""No framework is imported before its adapter is, though it is installed here."""

from __future__ import annotations

import subprocess
import sys

FRAMEWORKS = {"agents", "langchain_core", "langgraph", "llama_index"}


def test_sdk_imports_no_framework() -> None:
    probe = "import sys, memos_sdk, memos_sdk.integrations\nprint(*{name.partition('.')[0] for name in sys.modules})"
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert set(result.stdout.split()) & FRAMEWORKS == set()
