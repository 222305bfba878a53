"""The bundled model, and models that are not there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from memos.config import DEFAULT_EMBEDDER, Settings
from memos.embedding.base import Embedder, estimated_tokens, unit_rows
from memos.embedding.factory import make_embedder
from memos.embedding.local import LocalEmbedder
from memos.embedding.openai import OpenAIEmbedder
from memos.errors import EmbedderUnavailable
from memos_sdk import Memory
from memos_sdk import errors as sdk_errors


@pytest.fixture(scope="module")
def local() -> LocalEmbedder:
    return LocalEmbedder()


def test_identity_without_loading() -> None:
    fresh = LocalEmbedder()
    assert re.fullmatch(r"sentence-transformers:all-MiniLM-L6-v2@[0-9a-f]{16}", fresh.identity)
    assert fresh.identity == LocalEmbedder(f"sentence-transformers/{DEFAULT_EMBEDDER}").identity
    assert "_model" not in vars(fresh)


def test_dimension(local: LocalEmbedder) -> None:
    assert local.dimension == 384


def test_unit_vectors(local: LocalEmbedder) -> None:
    vectors = local.embed(["a cat", "?", "猫" * 50, "word " * 1_000])
    assert vectors.dtype == np.float32
    assert vectors.shape == (4, 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)


def test_no_texts(local: LocalEmbedder) -> None:
    assert local.embed([]).shape == (0, 384)


def test_meaning_counts(local: LocalEmbedder) -> None:
    question, near, far = local.embed(["Which pet?", "Ann adopted a kitten", "Taxes are due in May"])
    assert question @ near > question @ far


def test_batch_does_not_matter(local: LocalEmbedder) -> None:
    texts = ["a", "a much longer text about cats and dogs", "b", "x" * 3_000]
    together = local.embed(texts)
    alone = np.concatenate([local.embed([text]) for text in texts])
    assert together == pytest.approx(alone, abs=1e-5)


def test_end_of_a_long_text_counts(local: LocalEmbedder) -> None:
    """The model reads 256 tokens; what comes after them still moves the vector towards its subject."""
    filler = "The quarterly tax report lists income and costs. " * 60
    question, plain, ending = local.embed(
        [
            "Which pet did Ann adopt?",
            filler,
            filler + "Ann adopted a kitten from the shelter. " * 20,
        ]
    )
    assert question @ ending > question @ plain + 0.1


def test_count_tokens(local: LocalEmbedder) -> None:
    assert local.count_tokens("a cat") == 2
    assert local.count_tokens("a cat " * 1_000) == 2_000


def test_estimate_is_an_upper_bound(local: LocalEmbedder) -> None:
    for text in (
        "a cat",
        "Straße und Brücke",
        "猫が好きです",
        "x y z " * 50,
        "https://example.com/a?b=c",
    ):
        assert estimated_tokens(text) >= local.count_tokens(text) / 2


@pytest.mark.parametrize("name", ["no-such-model", "nobody/no-such-model"])
def test_unknown_model(name: str) -> None:
    """Offline, a model that is not cached is a clear error, not a download."""
    with pytest.raises(EmbedderUnavailable, match=re.escape(repr(name))):
        LocalEmbedder(name).embed(["a"])
    with pytest.raises(EmbedderUnavailable):
        _ = LocalEmbedder(name).identity


def test_unknown_model_in_the_sdk(tmp_path: Path) -> None:
    with (
        Memory(path=tmp_path, embedder="no-such-model") as memory,
        pytest.raises(sdk_errors.EmbedderUnavailable, match="no-such-model"),
    ):
        memory.store("a cat")


def test_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(EmbedderUnavailable, match=r"no \.safetensors weights"):
        _ = LocalEmbedder(str(tmp_path)).identity
    with pytest.raises(EmbedderUnavailable):
        LocalEmbedder(str(tmp_path)).embed(["a"])


# ---------------------------------------------------------------- from a setting to an embedder


def test_factory_default() -> None:
    made = make_embedder(Settings())
    assert isinstance(made, LocalEmbedder)
    assert made.name == DEFAULT_EMBEDDER


def test_factory_endpoint() -> None:
    made = make_embedder(Settings(openai_base_url="http://host/v1"), "openai:text-small")
    assert isinstance(made, OpenAIEmbedder)
    assert made.identity == "openai:text-small@host"


def test_changed_embedder_is_refused(data_folder: Path, embedder: Embedder, other_embedder: Embedder) -> None:
    with Memory(path=data_folder, embedder=embedder) as memory:
        memory.store("a cat")
    with Memory(path=data_folder, embedder=other_embedder) as memory:
        for operation in (memory.store, memory.recall):
            with pytest.raises(sdk_errors.EmbedderMismatch, match="memos reindex --embedder"):
                operation("a dog")
        assert [cube.text for cube in memory.list()] == ["a cat"]


# ---------------------------------------------------------------- unit rows


@pytest.mark.parametrize("rows", [[[0.0, 0.0]], [[np.nan, 1.0]], [[np.inf, 1.0]]])
def test_unit_rows_refuses(rows: list[list[float]]) -> None:
    with pytest.raises(EmbedderUnavailable, match="zero or non-finite"):
        unit_rows(np.array(rows, np.float32))


@pytest.mark.parametrize(("shape", "expected"), [((2,), None), ((1, 2, 3), None), ((2, 3), 4)])
def test_unit_rows_wrong_shape(shape: tuple[int, ...], expected: int | None) -> None:
    with pytest.raises(EmbedderUnavailable, match="shape"):
        unit_rows(np.ones(shape, np.float32), expected)


def test_unit_rows_scales() -> None:
    assert unit_rows(np.array([[3, 4]], np.float32)).tolist() == [[np.float32(0.6), np.float32(0.8)]]
