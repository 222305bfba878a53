"""The OpenAPI document says all there is: every error body, an example of every body, what every operation does."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from memos_api.app import create_app
from memos_api.settings import ServiceSettings


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(ServiceSettings()).openapi()


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(method, path, one) for path, item in document["paths"].items() for method, one in item.items()]


def test_every_operation_is_told_of(document: dict[str, Any]) -> None:
    for method, path, one in operations(document):
        assert one["summary"], (method, path)
        assert one["description"], (method, path)
        assert one["tags"], (method, path)


def test_every_error_has_a_body_with_an_example(document: dict[str, Any]) -> None:
    for method, path, one in operations(document):
        failing = {status: answer for status, answer in one["responses"].items() if int(status) >= 400}
        if path.startswith("/v1"):
            assert {"401", "403", "429", "503", "504"} <= failing.keys(), (method, path)
            assert {"security"} <= one.keys(), (method, path)
        for status, answer in failing.items():
            if path != "/readyz":
                (content,) = answer["content"].values()
                assert content["example"]["status"] == int(status)
                assert content["schema"] == {"$ref": "#/components/schemas/Problem"}


def test_bodies_refuse_unknown_fields_and_show_examples(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for name in ("StoreBody", "StoreManyBody", "RecallBody", "UpdateBody", "KeyBody"):
        assert schemas[name]["additionalProperties"] is False
        assert schemas[name]["examples"]
    assert schemas["StoreBody"]["properties"]["text"] == {"type": "string", "minLength": 1, "title": "Text"}
    assert not {"HTTPValidationError", "ValidationError"} & schemas.keys()


def test_references_resolve(document: dict[str, Any]) -> None:
    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if "$ref" in value:
                assert value["$ref"].removeprefix("#/components/schemas/") in document["components"]["schemas"]
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(document)


def test_documentation_page(running: Any) -> None:
    assert httpx.get(f"{running.url}/docs").status_code == 200
    assert httpx.get(f"{running.url}/openapi.json").json()["info"]["title"] == "agent-memos"
