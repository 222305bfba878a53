"""JSON schemas as language models read them best: no titles, and no nulls, as what is optional can be left out."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema


def schema_of(model: type[BaseModel], mode: JsonSchemaMode = "validation") -> dict[str, Any]:
    """Return the schema of a model."""
    made = model.model_json_schema(schema_generator=_Lean, mode=mode)
    for each in (made, *made.get("$defs", {}).values()):
        each.pop("title", None)
    return made


class _Lean(GenerateJsonSchema):
    """Renders ``X | None = None`` as an ``X`` that is not required."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        made = super().default_schema(schema)
        if made.get("default", ...) is None:
            del made["default"]
        return made

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False
