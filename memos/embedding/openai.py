"""Any OpenAI-compatible ``/v1/embeddings`` endpoint."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import httpx
import numpy as np
from numpy.typing import NDArray

from memos.embedding.base import estimated_tokens, unit_rows
from memos.errors import EmbedderUnavailable

_TIMEOUT_S = 60.0
_RETRIES = 3
_BACKOFF_S = 0.25


class OpenAIEmbedder:
    """Vectors from an endpoint, in batches, with retries on connection failures, 429 and 5xx.

    ``transport`` is httpx's own seam; tests pass an in-memory application.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        api_key: str,
        *,
        batch: int = 64,
        backoff_s: float = _BACKOFF_S,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.model = model
        self._batch = batch
        self._backoff_s = backoff_s
        self._width: int | None = None
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.Client(
            base_url=base_url.rstrip("/") + "/",
            headers=headers,
            timeout=_TIMEOUT_S,
            transport=transport or httpx.HTTPTransport(retries=_RETRIES),
        )

    @property
    def identity(self) -> str:
        """``openai:MODEL@HOST``: the same name at another host may be another model."""
        return f"openai:{self.model}@{self._client.base_url.host}"

    @property
    def dimension(self) -> int:
        """Elements per vector, learnt from the first answer."""
        return self._width or int(self._request(["dimension"]).shape[1])

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 ``[len(texts), dimension]`` unit vectors."""
        if not texts:
            return np.empty((0, self.dimension), np.float32)
        batches = [texts[i : i + self._batch] for i in range(0, len(texts), self._batch)]
        return unit_rows(np.concatenate([self._request(batch) for batch in batches]))

    def count_tokens(self, text: str) -> int:
        """Estimate: the endpoint's tokenizer is not known."""
        return estimated_tokens(text)

    def _request(self, texts: Sequence[str]) -> NDArray[np.float32]:
        body = {"model": self.model, "input": list(texts), "encoding_format": "float"}
        response = self._post(body)
        for attempt in range(1, _RETRIES):
            if response.status_code < 500 and response.status_code != httpx.codes.TOO_MANY_REQUESTS:
                break
            time.sleep(self._backoff_s * 2**attempt)
            response = self._post(body)
        if response.is_error:
            raise EmbedderUnavailable(f"the embeddings endpoint answered {response.status_code}: {response.text[:200]}")
        vectors = _vectors(response, len(texts))
        if self._width is None:
            self._width = vectors.shape[1]
        if vectors.shape[1] != self._width:
            raise EmbedderUnavailable(
                f"the embeddings endpoint answered vectors of {vectors.shape[1]} elements, before of {self._width}"
            )
        return vectors

    def _post(self, body: Mapping[str, object]) -> httpx.Response:
        try:
            return self._client.post("embeddings", json=body)
        except httpx.HTTPError as error:
            raise EmbedderUnavailable(f"the embeddings endpoint does not answer: {error!r}") from error


def _vectors(response: httpx.Response, expected: int) -> NDArray[np.float32]:
    try:
        rows = sorted(response.json()["data"], key=lambda item: item["index"])
        vectors = np.asarray([row["embedding"] for row in rows], np.float32)
    except (ValueError, KeyError, TypeError) as error:
        raise EmbedderUnavailable("the embeddings endpoint answered with something else than embeddings") from error
    if len(vectors) != expected:
        raise EmbedderUnavailable(f"the embeddings endpoint answered {len(vectors)} vectors for {expected} texts")
    if vectors.ndim != 2:
        raise EmbedderUnavailable(
            f"the embeddings endpoint answered with shape {vectors.shape}, expected [n, dimension]"
        )
    return vectors
