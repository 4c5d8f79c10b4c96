"""What is wrong with a spec: pydantic's findings as errors with file:line, key, reason and fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from calib.images import OPERATORS
from compiler.errors import SpecError, UnknownKeyError
from compiler.vendor_keys import NO_EFFECT
from compiler.yaml_source import Document, KeyPath, clip

_OLD_FORM = ("engine", "model")
_LONGEST_NAME = 100  # longer words are no misspelling of a key


def at(document: Document, *path: str | int) -> dict[str, Any]:
    """Keyword arguments `where`, `line` and `key` of a SpecError about `path`."""
    key = ".".join(map(str, path))
    place = document.where(path)
    return {"where": f"{place} {key}", "line": document.line(path), "key": key}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` - did you mean 'x'?`, or nothing where no known name is close."""
    close = _closest(name, known)
    return f" - did you mean {close!r}?" if close else ""


def _closest(name: str, known: Iterable[str]) -> str | None:
    if len(name) > _LONGEST_NAME:
        return None
    by_lower = {word.lower(): word for word in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return by_lower[close[0]] if close else None


def old_form(document: Document) -> SpecError | None:
    """Refuses the vendor's form of before `frontend:` and `backend:` as a whole."""
    if not set(_OLD_FORM) <= document.data.keys() or "backend" in document.data:
        return None
    return SpecError(
        "this is the vendor's older form of a spec (model:, engine:)",
        fix="write frontend: for model:, backend: {dtype, compile, quantize} for engine:, and "
        "process_ops: for transform_ops:",
        **at(document, "engine"),
    )


@dataclass(frozen=True)
class Repair:
    """How judgement goes on in spite of a fault: the key at `path` goes, or gets another name."""

    path: KeyPath
    name: str | None = None


def explain(
    error: ValidationError, document: Document, model: type[BaseModel]
) -> tuple[list[SpecError], list[Repair]]:
    """Every finding as an error, and its repair."""
    faults: list[SpecError] = []
    repairs: list[Repair] = []
    for problem in error.errors():
        if _misspelt(problem, error):
            continue
        path = _real_path(problem["loc"], document)
        if any(repair.path == path for repair in repairs):
            continue  # the other alternatives of a union say the same of one value
        faults.append(_explain(problem, path, document, model))
        unknown = problem["type"] == "extra_forbidden"
        known = _known_keys(path[:-1], document, model) if unknown else ()
        name = _closest(str(path[-1]), known)
        idle = name in NO_EFFECT.get(path[:-1], ())  # the schema does not have it
        repairs.append(Repair(path, None if idle else name))
    return faults, repairs


def _misspelt(problem: Any, error: ValidationError) -> bool:
    """Whether a missing key is there after all, misspelt, and so told already as unknown."""
    if problem["type"] != "missing":
        return False
    *parent, name = problem["loc"]
    unknown = [
        str(other["loc"][-1])
        for other in error.errors()
        if other["type"] == "extra_forbidden" and list(other["loc"][:-1]) == parent
    ]
    return _closest(str(name), unknown) is not None


def _explain(problem: Any, path: KeyPath, document: Document, model: type[BaseModel]) -> SpecError:
    place = at(document, *path)
    match problem["type"]:
        case "extra_forbidden":
            name, known = str(path[-1]), _known_keys(path[:-1], document, model)
            listed = f"known here: {', '.join(sorted(known))}" if known else "remove it"
            close = _closest(name, known)
            return UnknownKeyError(
                f"unknown key {name!r}{did_you_mean(name, known)}",
                fix=f"write {close}" if close else listed,
                **place,
            )
        case "missing":
            return SpecError(f"the key {path[-1]!r} is missing", fix="add it", **place)
        case "union_tag_invalid":
            return _unknown_operator(str(problem["ctx"]["tag"]), place)
        case "union_tag_not_found":
            return SpecError(
                "a step of process_ops has no `type`",
                fix=f"write `- type: NAME` with one of {', '.join(OPERATORS)}",
                **place,
            )
        case _:
            return SpecError(_reason(problem), fix="correct the value", **place)


_EXPECTED = {
    "model_type": "a mapping of keys to values is expected",
    "model_attributes_type": "a mapping of keys to values is expected",
    "dict_type": "a mapping of keys to values is expected",
    "list_type": "a list is expected",
    "tuple_type": "a list is expected",
}


def _reason(problem: Any) -> str:
    """The value at fault, as a spec has it, and what is wrong with it."""
    value, kind = problem["input"], problem["type"]
    reason = str(problem["msg"]).removeprefix("Value error, ")
    if isinstance(value, dict):
        return reason if kind == "value_error" else f"a mapping: {_EXPECTED.get(kind, reason)}"
    if value is None or isinstance(value, bool):
        shown = "null" if value is None else str(value).lower()
    else:
        shown = "a list" if isinstance(value, list | tuple) else clip(repr(value))
    return f"{shown}: {_EXPECTED.get(kind, reason)}"


def renamed(document: Document, repairs: Iterable[Repair]) -> Document:
    """The document with the lines of misspelt keys under their right names too."""
    lines = dict(document.lines)
    for repair in repairs:
        size = len(repair.path)
        for path, line in document.lines.items():
            if repair.name and path[:size] == repair.path:
                lines.setdefault((*repair.path[:-1], repair.name, *path[size:]), line)
    return replace(document, lines=lines)


def _unknown_operator(name: str, place: dict[str, Any]) -> SpecError:
    if name == "CustomFunc":
        return SpecError(
            "CustomFunc runs Python code that the spec names; that is not done here",
            fix=f"write its steps as process_ops: {', '.join(OPERATORS)}",
            **place,
        )
    return SpecError(
        f"unknown step {clip(repr(name))}{did_you_mean(name, OPERATORS)}",
        fix=f"use one of {', '.join(OPERATORS)}",
        **place,
    )


def _real_path(loc: tuple[str | int, ...], document: Document) -> KeyPath:
    """pydantic's location without the union tags that it inserts."""
    path: list[str | int] = []
    node: Any = document.data
    for i, part in enumerate(loc):
        last = i == len(loc) - 1
        tagged = isinstance(node, dict) and part not in node and part == node.get("type")
        if isinstance(node, dict) and (part in node or last) and not tagged:
            node = node.get(part)
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
        elif tagged or not last or not isinstance(node, dict | list):
            continue
        path.append(part)
    return tuple(path)


def _known_keys(path: KeyPath, document: Document, model: type[BaseModel]) -> tuple[str, ...]:
    """Keys that the schema and the vendor know at `path`."""
    node: Any = model
    for part in path:
        if isinstance(part, int):
            return _step_keys(document, path)
        field = getattr(node, "model_fields", {}).get(part)
        if field is None:
            return ()
        options = [field.annotation, *get_args(field.annotation)]
        node = next((o for o in options if hasattr(o, "model_fields")), None)
    return (*getattr(node, "model_fields", ()), *NO_EFFECT.get(path, ()))


def _step_keys(document: Document, path: KeyPath) -> tuple[str, ...]:
    """Keys of one step of process_ops."""
    node: Any = document.data
    for part in path:
        node = node[part]
    step = OPERATORS.get(str(node.get("type"))) if isinstance(node, dict) else None
    return tuple(step.model_fields) if step else ()
