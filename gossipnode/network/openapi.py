"""``GET /v1/openapi.json``: the endpoints and the status schema for programs.

Invariant: the status schema is made from the dataclass that is served, so it cannot be out of
date. pydantic does that when asked, not at start-up.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from gossipnode.errors import REFUSALS
from gossipnode.network.admin import PATHS as ADMIN_PATHS
from gossipnode.network.admin import RELOAD, STOP
from gossipnode.network.pages import PEERS_PAGE_MAX, Route
from gossipnode.node.status import PEERS_SHOWN, PeerPage, Status
from gossipnode.wire.frame import CONTENT_TYPE
from gossipnode.wire.reply import Reply

SCHEMA = "#/components/schemas/"
ANSWERS: dict[str, type] = {"/v1/status": Status, "/v1/peers": PeerPage}
BYTES = {"schema": {"type": "string", "format": "binary"}}
FAULT = {
    "schema": {
        "type": "object",
        "properties": {"code": {"type": "string"}, "reason": {"type": "string"}},
        "required": ["code", "reason"],
    }
}
QUERIES: dict[str, dict[str, dict[str, Any]]] = {
    "/v1/history": {"since": {"type": "integer", "minimum": 0, "default": 0}},
    "/v1/view": {"port": {"type": "integer", "minimum": 1, "maximum": 65_535}},
    "/v1/peers": {
        "after": {"type": "string", "default": ""},
        "limit": {
            "type": "integer",
            "minimum": 1,
            "maximum": PEERS_PAGE_MAX,
            "default": PEERS_SHOWN,
        },
    },
}


SECURITY = {
    "owner": {
        "type": "http",
        "scheme": "bearer",
        "description": "The token in admin.token of the node's folder; from its own machine alone.",
    },
    "reader": {
        "type": "http",
        "scheme": "bearer",
        "description": "The token in network.status_token_file, where one is set.",
    },
    "password": {"type": "http", "scheme": "basic", "description": "The same, as a password."},
}
# What a refusal is answered with besides 200.
REFUSED = {
    STOP: {"202": "It stops", "401": "No token", "403": "Not from here", "421": "Another host"},
    RELOAD: {
        "200": "What holds now", "401": "No token", "403": "Not from here",
        "409": "A file cannot be used; nothing has changed", "421": "Another host",
    },
}  # fmt: skip


def document(routes: Iterable[Route], version: str) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of ``routes``."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operation: dict[str, Any] = {"summary": route.summary, "responses": _responses(route.path)}
        if route.path == "/v1/push":
            operation["requestBody"] = {"required": True, "content": {CONTENT_TYPE: BYTES}}
        if route.path == "/v1/revocations" and route.method == "POST":
            operation["requestBody"] = {"required": True, "content": {"text/plain": BYTES}}
        if route.path in QUERIES:
            operation["parameters"] = [
                {"name": name, "in": "query", "schema": schema}
                for name, schema in QUERIES[route.path].items()
            ]
        if route.path in ADMIN_PATHS:
            operation["security"] = [{"owner": []}]
        elif route.method == "GET" and route.path not in ("/livez", "/readyz"):
            operation["security"] = [{}, {"reader": []}, {"password": []}]  # {}: where none is set
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "gossipnode", "version": version},
        "paths": paths,
        "components": {"schemas": _schemas(), "securitySchemes": SECURITY},
    }


def _responses(path: str) -> dict[str, Any]:
    success: dict[str, Any] = {"description": "OK"}
    if path in ANSWERS:
        schema = {"$ref": SCHEMA + ANSWERS[path].__name__}
        success["content"] = {"application/json": {"schema": schema}}
    if path == "/v1/lane":
        return {"101": {"description": "The connection is a lane now"}}
    if path in REFUSED:
        return {status: {"description": text} for status, text in REFUSED[path].items()}
    if path != "/v1/push":
        words = {"application/json": FAULT, "application/msgpack": FAULT}
        fault = {"description": "Why not: a code for programs, a reason", "content": words}
        return {"200": success, "4XX": fault, "503": fault}
    reply = {"schema": {"$ref": SCHEMA + "Reply"}}
    content = {"application/msgpack": reply, "application/json": reply}
    responses: dict[str, Any] = {
        "200": {"description": "Taken", "content": {**content, CONTENT_TYPE: {}}}
    }
    for status in sorted(set(REFUSALS.values())):
        codes = ", ".join(code for code, number in REFUSALS.items() if number == status)
        responses[str(status)] = {"description": f"Refused: {codes}", "content": content}
    return responses


def _schemas() -> dict[str, Any]:
    from pydantic import TypeAdapter

    found: dict[str, Any] = {}
    for type_ in (*ANSWERS.values(), Reply):
        schema_of = partial(TypeAdapter(type_).json_schema, ref_template=SCHEMA + "{model}")
        schema = schema_of(mode="serialization")
        found.update(schema.pop("$defs", {}))
        found[type_.__name__] = schema
    return found
