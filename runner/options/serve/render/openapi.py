"""Builds the API description in /openapi.json and the page /docs, which loads no external resources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from jinja2 import Environment
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from runner.options.serve.bodies import ChatBody, GenerateBody, TextBody, TokenizeBody
from runner.options.serve.limits import ServerLimits
from runner.options.serve.render.openapi_texts import (
    ANSWER,
    ANSWERS,
    MEANINGS,
    NO_EFFECT,
    NOT_READ,
    OTHER_PROPERTIES,
    STATUSES,
    SUMMARIES,
)
from runner.options.serve.request_parsing import LABELS, NEUTRAL
from runner.options.serve.tokenize_endpoint import NEUTRAL as NEUTRAL_TO_TOKENS

Schema = dict[str, Any]
BODIES: dict[
    type[BaseModel], dict[str, tuple[Any, ...]]
] = {  # and the parameters that they take without effect
    ChatBody: NEUTRAL,
    TextBody: NEUTRAL,
    GenerateBody: {},
    TokenizeBody: NEUTRAL_TO_TOKENS,
}
PAGE = (Path(__file__).parent / "docs.html").read_text(encoding="utf-8")


def build_openapi(app: FastAPI, limits: ServerLimits) -> Schema:
    """Return the OpenAPI description of all paths, including request bodies, which FastAPI does not parse."""
    described: Schema = app.openapi()
    _, definitions = models_json_schema(
        [(body, "validation") for body in BODIES], ref_template="#/components/schemas/{model}"
    )
    schemas: Schema = definitions["$defs"]
    for schema, meanings in MEANINGS.items():
        properties = schemas[schema]["properties"]
        for name, meaning in meanings.items():
            properties[name] = dict(sorted({**properties[name], "description": meaning}.items()))
    for schema, meaning in OTHER_PROPERTIES.items():
        others = schemas[schema]["additionalProperties"]
        schemas[schema]["additionalProperties"] = {"description": meaning, **others}
    for body, neutral in BODIES.items():
        _add_limits_to_schema(schemas[body.__name__], neutral, limits)
    described["components"] = {
        "schemas": schemas,
        "securitySchemes": {
            "key": {"type": "http", "scheme": "bearer", "description": "if the server has one"}
        },
    }
    described["security"] = [{}, {"key": []}]
    return described


def build_openapi_post_operation(
    path: str,
    body_type: type[BaseModel],
    limits: ServerLimits,
    example: Schema,
    has_timeout_response: bool = True,
) -> dict[str, Any]:
    statuses = {200: ANSWERS.get(path, ANSWER)} | {
        status: meaning.format(task=limits.task)
        for status, meaning in STATUSES.items()
        if has_timeout_response or status != 504
    }
    content = {"schema": {"$ref": f"#/components/schemas/{body_type.__name__}"}, "example": example}
    return {
        "summary": SUMMARIES[path],
        "responses": {status: {"description": meaning} for status, meaning in statuses.items()},
        "openapi_extra": {"requestBody": {"required": True, "content": {"application/json": content}}},
    }


def _add_limits_to_schema(
    schema: Schema, values_without_effect: dict[str, tuple[Any, ...]], limits: ServerLimits
) -> None:
    """Add the server's limits to a JSON schema.

    Adds unsupported parameters too, with the values that have no effect.
    """
    properties: Schema = schema["properties"]
    for name, parameter in properties.items():
        parameter.pop("title", None)
        limits.add_schema_limits(name, parameter.get("anyOf", []))
    if values_without_effect:
        properties |= {
            name: {"enum": [*values, None], "description": NO_EFFECT}
            for name, values in values_without_effect.items()
            if name not in properties
        }
        properties |= {name: {"description": NOT_READ} for name in LABELS}
    schema["additionalProperties"] = False


def render_docs_page(openapi_schema: Schema) -> str:
    """Render the API description as an HTML page."""
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(PAGE)
    schemas = openapi_schema["components"]["schemas"]
    return template.render(
        paths=openapi_schema["paths"], schemas=schemas, kind=_describe_type, json=json.dumps
    )


def _describe_type(schema: Schema) -> str:
    if "anyOf" in schema:
        return ", or ".join(_describe_type(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "enum" in schema:
        return " or ".join(json.dumps(one) for one in schema["enum"] if one is not None) or "null"
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if schema.get("type") == "array":
        most = f" (up to {schema['maxItems']})" if "maxItems" in schema else ""
        return f"list of {_describe_type(schema['items'])}{most}"
    low, above, high = schema.get("minimum"), schema.get("exclusiveMinimum"), schema.get("maximum")
    begin = f"above {above}" if above is not None else "" if low is None else f"from {low}"
    length = f"up to {schema['maxLength']} characters" if "maxLength" in schema else ""
    return " ".join(
        part
        for part in (schema.get("type", "anything"), begin, "" if high is None else f"to {high}", length)
        if part
    )
