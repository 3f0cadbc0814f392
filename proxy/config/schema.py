"""The JSON Schema (draft 2020-12) of the configuration, for editors and for `llm-sidecar schema`.

Beyond what pydantic derives from the models it says what the loader allows: `${...}` in place of any value, one value
where a list may stand, and for each chain entry the options of its policy together with the common ones.
"""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from proxy.config.chains import Names, Resolve
from proxy.config.model import Common, Config
from proxy.config.problem import PolicyLoadError
from proxy.config.units import show_duration, show_size

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REFERENCE = {"$ref": "#/$defs/Interpolated"}
_NOTES = ("description", "default", "examples", "title", "writeOnly")
_MODE: JsonSchemaMode = "validation"


def schema(resolve: Resolve, names: Names) -> dict[str, Any]:
    """The schema, with every policy that `names` lists. What `resolve` does not know or cannot load is left out."""
    policies: dict[str, type[BaseModel]] = {}
    for name in sorted(names()):
        with suppress(PolicyLoadError):  # who uses it is told
            model = resolve(name)
            if model is not None:
                policies[name] = model
    models: list[type[BaseModel]] = list(dict.fromkeys([Config, Common, *policies.values()]))
    found, document = models_json_schema([(model, _MODE) for model in models], ref_template="#/$defs/{model}")
    definitions: dict[str, Any] = document["$defs"]

    def whole(model: type[BaseModel]) -> dict[str, Any]:
        shape = found[(model, _MODE)]
        return dict(definitions[shape["$ref"].rpartition("/")[2]]) if "$ref" in shape else dict(shape)

    common = whole(Common)["properties"]
    root = whole(Config)
    entries = {name: _options(whole(model), common) for name, model in policies.items()}
    root["properties"] = root["properties"] | {"chains": _chains(root["properties"]["chains"], entries)}
    _loosen(root)
    for definition in definitions.values():
        _loosen(definition)
    definitions["Interpolated"] = {
        "type": "string",
        "pattern": r"\$\{[^}]+\}",
        "description": "A value from outside: ${NAME}, ${NAME:-default}, ${file:/path}, ${encrypted:...}, ${set:NAME}.",
    }
    root = _without_title(root) | {"$defs": _reachable(root, definitions)}
    return {"$schema": DIALECT, "title": "llm-sidecar configuration"} | root


def _without_title(node: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in node.items() if key != "title"}


def _options(own: dict[str, Any], common: dict[str, Any]) -> dict[str, Any]:
    """The options of a policy as they stand in a chain: its own and the common ones, or nothing for its defaults."""
    described = {"description": own["description"]} if "description" in own else {}
    shape = _without_title(own) | {"properties": copy.deepcopy({**own.get("properties", {}), **common})}
    shape["additionalProperties"] = own.get("additionalProperties", False)
    return described | ({"anyOf": [shape, {"type": "null"}]} if not own.get("required") else shape)


def _chains(field: dict[str, Any], entries: dict[str, Any]) -> dict[str, Any]:
    outside = {"type": "string", "pattern": r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", "description": "module:Class"}
    entry = {
        "anyOf": [
            {"enum": list(entries), "description": "A policy with its defaults."},
            outside,
            {
                "type": "object",
                "properties": entries
                | {"use": {"type": "string", "description": "Put the entries of another chain here."}},
                "patternProperties": {outside["pattern"]: {"type": ["object", "null"]}},
                "additionalProperties": False,
                "minProperties": 1,
                "maxProperties": 1,
            },
        ]
    }
    return {
        "description": field.get("description", ""),
        "type": "object",
        "additionalProperties": {"type": "array", "items": entry},
    }


def _loosen(node: Any) -> None:
    """Allow `${...}` at every value below `node`, in place."""
    if isinstance(node, list):
        for item in node:
            _loosen(item)
    if not isinstance(node, dict):
        return
    for key, below in node.items():
        if key in {"properties", "patternProperties"}:
            for name, value in below.items():
                _loosen(value)
                below[name] = _or_reference(value)
        elif key in {"items", "additionalProperties"} and isinstance(below, dict):
            _loosen(below)
            node[key] = _or_reference(below)
        elif key in {"anyOf", "oneOf", "allOf", "prefixItems"}:
            _loosen(below)


def _or_reference(value: dict[str, Any]) -> dict[str, Any]:
    """The schema of a value, with `${...}` allowed where it restricts what a text may be."""
    value = _without_title(value)
    notes = {key: value[key] for key in _NOTES if key in value}
    rest = {key: item for key, item in value.items() if key not in notes}
    if "default" in notes:
        notes["default"] = _written(notes["default"], rest)
    if rest.get("anyOf"):
        if not any(_restricted(member) for member in rest["anyOf"]) or _REFERENCE in rest["anyOf"]:
            return value
        return notes | rest | {"anyOf": [*rest["anyOf"], _REFERENCE]}
    return notes | {"anyOf": [rest, _REFERENCE]} if _restricted(rest) else value


def _written(default: Any, rest: dict[str, Any]) -> Any:
    """A default as one would write it: 30.0 seconds are `30s`, no bound is `none`."""
    forms = rest.get("anyOf") or [{}]
    unit = (forms[0].get("examples") or [None])[0]
    if unit not in ("30s", "64MiB") or isinstance(default, str):
        return default
    if default is None:
        return "none" if {"enum": ["none", None]} in forms else None
    return show_duration(default) if unit == "30s" else show_size(default)


def _reachable(root: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The definitions that the schema refers to, directly or through one another."""
    found: dict[str, Any] = {}
    waiting: list[Any] = [root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            waiting += node.values()
            name = str(node.get("$ref", "")).rpartition("/")[2]
            if name in definitions and name not in found:
                found[name] = definitions[name]
                waiting.append(definitions[name])
    return dict(sorted(found.items()))


def _restricted(value: dict[str, Any]) -> bool:
    """Whether this is a single value that not every text is allowed for."""
    if "enum" in value or "const" in value:
        return True
    kind = value.get("type")
    if kind == "string":
        return any(key in value for key in ("pattern", "format", "maxLength"))
    return kind in ("integer", "number", "boolean")  # a list of types is of no single value
