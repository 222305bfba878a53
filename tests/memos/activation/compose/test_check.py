"""The check of a model: what it measures, and what is on record of it afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from memos.activation.compose import check
from memos.activation.compose.check import Checked, check_model
from memos.activation.compose.composer import Composer
from memos.activation.compose.drift import EDGES, Drift
from memos.activation.compose.moving import frequencies_of
from memos.activation.compose.variants import Variants
from memos.activation.hot import HotFiles
from memos.config import Settings
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.errors import ModelUnsupported
from memos.runtime.host import ModelHost

pytestmark = pytest.mark.timeout(300)  # the first test loads the model


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes for a test."""
    for name, value in {"MEASURED": 1, "CHECKED": 1, "PARTS": 3, "PART_TOKENS": 40, "CONTINUATION": 8}.items():
        monkeypatch.setattr(check, name, value)


def test_checks_a_model_and_measures_its_drift(shallow_models: ModelHost) -> None:
    serving = shallow_models.serving()
    checked = check_model(serving)
    assert 0 < checked.divergence < 1
    assert checked.drift.mean.abs().max() > 0
    assert checked.drift.mean[0].abs().max() < 1e-4  # the first layer sees its own token alone: nothing drifts


@pytest.mark.parametrize(
    ("divergence", "agreement", "match"),
    [(0.01, 0.99, None), (0.5, 0.99, "nats"), (0.01, 0.5, "likeliest"), (float("nan"), 0.99, "finite")],
)
def test_refusal_says_why(divergence: float, agreement: float, match: str | None) -> None:
    refusal = Checked(divergence, agreement, Drift(torch.zeros(1, 2, 1, len(EDGES), 8))).refusal
    assert (refusal is None) if match is None else (refusal is not None and match in refusal)


def test_what_was_measured_is_kept_and_not_measured_again(
    data_folder: Path, embedder: Embedder, shallow_models: ModelHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = shallow_models.serving()
    with MemoryOS(Settings(home=data_folder, compose="auto"), embedder, shallow_models) as engine:
        first = engine.activation.composer.check(serving)
        monkeypatch.setattr(check, "check_model", lambda _: pytest.fail("measured again"))
        again = Composer(engine.database, engine.activation.reuse, Variants(HotFiles(0)), enabled=True).check(serving)
    assert again == first
    assert first.drift is not None


@pytest.mark.parametrize(
    "rope", [{"rope_type": "dynamic", "factor": 2.0}, {"rope_type": "default", "partial_rotary_factor": 0.5}]
)
def test_keys_that_cannot_be_moved_are_refused(
    shallow_models: ModelHost, rope: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = shallow_models.serving().loaded
    monkeypatch.setattr(loaded.model.config, "rope_parameters", {"rope_theta": 1e4, **rope})
    with pytest.raises(ModelUnsupported):
        frequencies_of(loaded)
