"""Any OpenAI-compatible ``/v1/chat/completions`` endpoint, asked for JSON of a schema."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

import httpx

from memos.errors import ModelUnavailable
from memos.llm.completion import Completion, Messages, Spent

RETRIES = 3
BACKOFF_S = 0.5
#: Longest pause that an endpoint may ask for with ``Retry-After``.
LONGEST_PAUSE_S = 30.0
_NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)


class OpenAICompleter:
    """Retries on connection failures, 408, 429 and 5xx; a timeout covers each attempt.

    ``prices`` are those of a million prompt and completion tokens.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        api_key: str = "",
        *,
        timeout_s: float = 60.0,
        prices: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.name = model
        self._prices = prices
        self._client = httpx.Client(
            base_url=base_url.rstrip("/") + "/",
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=timeout_s,
        )

    def complete(self, messages: Messages, schema: Mapping[str, Any]) -> Completion:
        """Return the answer. Raises :class:`ModelUnavailable`."""
        form = {"name": "answer", "schema": schema, "strict": True}
        body = {
            "model": self.name,
            "messages": list(messages),
            "temperature": 0,
            "response_format": {"type": "json_schema", "json_schema": form},
        }
        return self._read(self._answered(body))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    # ------------------------------------------------------------ inside

    def _answered(self, body: Mapping[str, Any]) -> httpx.Response:
        trouble = "did not answer"
        for attempt in range(RETRIES):
            try:
                response = self._client.post("chat/completions", json=body)
            except httpx.TimeoutException:
                trouble, pause = "took longer than the timeout", 0.0
            except httpx.HTTPError as error:
                trouble, pause = f"does not answer: {error!r}", 0.0
            else:
                if not _worth_repeating(response):
                    return _accepted(response)
                trouble, pause = f"answered {response.status_code}", _asked_pause(response)
            if attempt + 1 < RETRIES:
                time.sleep(max(pause, BACKOFF_S * 2**attempt))
        raise ModelUnavailable(f"the chat endpoint {trouble}, {RETRIES} times")

    def _read(self, response: httpx.Response) -> Completion:
        try:
            answer = response.json()
            choice = answer["choices"][0]
            text = choice["message"]["content"]
        except (ValueError, LookupError, TypeError) as error:
            raise ModelUnavailable("the chat endpoint answered with something else than a completion") from error
        if not isinstance(text, str):
            raise ModelUnavailable("the chat endpoint answered without a text; the model may have refused")
        usage = answer.get("usage") if isinstance(answer, dict) else None
        return Completion(text, self._spent(usage), choice.get("finish_reason") in (None, "stop"))

    def _spent(self, usage: object) -> Spent:
        given: Mapping[str, Any] = usage if isinstance(usage, Mapping) else {}
        prompt, completion = (_count(given.get(name)) for name in ("prompt_tokens", "completion_tokens"))
        cost = (prompt * self._prices[0] + completion * self._prices[1]) / 1e6
        return Spent(1, prompt, completion, cost)


def _worth_repeating(response: httpx.Response) -> bool:
    return response.status_code in (408, 429) or response.status_code >= 500


def _accepted(response: httpx.Response) -> httpx.Response:
    if response.is_success:
        return response
    raise ModelUnavailable(f"the chat endpoint answered {response.status_code}{_named(response)}")


def _named(response: httpx.Response) -> str:
    """Return the name of an error; its message may repeat the question, and with it what somebody wants forgotten."""
    try:
        error = response.json()["error"]
        name = error.get("code") or error.get("type")
    except (ValueError, LookupError, TypeError, AttributeError):
        return ""
    return f" ({name})" if isinstance(name, str) and _NAME.fullmatch(name) else ""


def _asked_pause(response: httpx.Response) -> float:
    """Return the seconds of ``Retry-After``, which may also be a date: then the usual pause does."""
    asked = response.headers.get("retry-after", "")
    return min(float(asked), LONGEST_PAUSE_S) if asked.replace(".", "", 1).isdigit() else 0.0


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
