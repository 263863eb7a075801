"""The server's interface: for machines at /openapi.json, for people at /docs, which loads nothing
from other sites."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from jinja2 import Environment
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from runner.options.serve.bodies import ChatBody, GenerateBody, TextBody, TokenizeBody
from runner.options.serve.limits import Limits
from runner.options.serve.parsing import LABELS, NEUTRAL
from runner.options.serve.render.meanings import (
    ANSWER,
    ANSWERS,
    MEANINGS,
    NO_EFFECT,
    NOT_READ,
    OTHER_PROPERTIES,
    STATUSES,
    SUMMARIES,
)
from runner.options.serve.tokens import NEUTRAL as NEUTRAL_TO_TOKENS

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


def openapi(app: FastAPI, limits: Limits) -> Schema:
    """Return FastAPI's description of all paths, with the bodies that this server reads itself."""
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
        _complete(schemas[body.__name__], neutral, limits)
    described["components"] = {
        "schemas": schemas,
        "securitySchemes": {
            "key": {"type": "http", "scheme": "bearer", "description": "if the server has one"}
        },
    }
    described["security"] = [{}, {"key": []}]
    return described


def post(
    path: str, body: type[BaseModel], limits: Limits, example: Schema, waits: bool = True
) -> dict[str, Any]:
    """Return how FastAPI describes a path whose body this server reads itself; waits: its answer
    can take too long."""
    statuses = {200: ANSWERS.get(path, ANSWER)} | {
        status: meaning.format(task=limits.task)
        for status, meaning in STATUSES.items()
        if waits or status != 504
    }
    content = {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}, "example": example}
    return {
        "summary": SUMMARIES[path],
        "responses": {status: {"description": meaning} for status, meaning in statuses.items()},
        "openapi_extra": {"requestBody": {"required": True, "content": {"application/json": content}}},
    }


def _complete(schema: Schema, neutral: dict[str, tuple[Any, ...]], limits: Limits) -> None:
    """Add this server's limits, and the parameters that are accepted only if they have no
    effect."""
    properties: Schema = schema["properties"]
    for name, parameter in properties.items():
        parameter.pop("title", None)
        limits.describe(name, parameter.get("anyOf", []))
    if neutral:
        properties |= {
            name: {"enum": [*values, None], "description": NO_EFFECT}
            for name, values in neutral.items()
            if name not in properties
        }
        properties |= {name: {"description": NOT_READ} for name in LABELS}
    schema["additionalProperties"] = False


def page(described: Schema) -> str:
    """Return the description as a page for people."""
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(PAGE)
    schemas = described["components"]["schemas"]
    return template.render(paths=described["paths"], schemas=schemas, kind=_kind, json=json.dumps)


def _kind(schema: Schema) -> str:
    """Return a type with its range in words."""
    if "anyOf" in schema:
        return ", or ".join(_kind(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "enum" in schema:
        return " or ".join(json.dumps(one) for one in schema["enum"] if one is not None) or "null"
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if schema.get("type") == "array":
        most = f" (up to {schema['maxItems']})" if "maxItems" in schema else ""
        return f"list of {_kind(schema['items'])}{most}"
    low, above, high = schema.get("minimum"), schema.get("exclusiveMinimum"), schema.get("maximum")
    begin = f"above {above}" if above is not None else "" if low is None else f"from {low}"
    length = f"up to {schema['maxLength']} characters" if "maxLength" in schema else ""
    return " ".join(
        part
        for part in (schema.get("type", "anything"), begin, "" if high is None else f"to {high}", length)
        if part
    )
