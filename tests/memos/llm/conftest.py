"""What is done around a model needs few of its layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from memos.runtime.host import ModelHost


@pytest.fixture(scope="session")
def models(shallow_models: ModelHost) -> ModelHost:
    """The first layers of the bundled model; the whole of it in soak."""
    return shallow_models
