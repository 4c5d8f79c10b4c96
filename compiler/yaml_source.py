"""Strict YAML: plain data with the line of every key, and errors that name file and line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml._yaml import CParser
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from compiler.errors import SpecError

_MAX_CHARACTERS = 1 << 20
_MAX_VALUES = 20_000  # after aliases are expanded; stops a "billion laughs" file
_MAX_DEPTH = 50
_MAX_INTEGER = 1 << 63
_MAX_KEY, _MAX_TEXT = 200, 10_000  # characters; longer ones only make unreadable messages
KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """One YAML mapping.

    Attributes:
        data: plain dicts, lists, strings, numbers, booleans and None.
        lines: 1-based line of every key and list item, by its path.
    """

    path: Path
    data: dict[str, Any]
    lines: dict[KeyPath, int]

    def line(self, path: KeyPath) -> int | None:
        """Line of `path`, or of its nearest ancestor that stands in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)

    def where(self, path: KeyPath) -> str:
        """`file:line`, or the file alone for what does not stand in it."""
        line = self.line(path)
        return f"{self.path}:{line}" if line else str(self.path)


def read(path: Path) -> Document:
    """Reads one YAML file that holds a mapping.

    Numbers follow YAML 1.2 (1e-4 is a number). Tags, duplicate keys, keys that are not strings,
    and files that expand without bound are refused.

    Raises:
        SpecError: with file and line.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MAX_CHARACTERS + 1)  # a device or a pipe may have no end
    except OSError as error:
        raise SpecError(
            f"the file cannot be read: {os.strerror(error.errno or 0)}",
            where=str(path),
            fix="check the path; specs lie in configs/",
        ) from error
    except UnicodeDecodeError as error:
        raise SpecError(
            "the file is not UTF-8 text", where=str(path), fix="name a YAML file"
        ) from error
    if len(text) > _MAX_CHARACTERS:
        raise SpecError("the file is too large for a spec", where=str(path), fix="name a spec")
    return parse(text, path)


def parse(text: str, path: Path) -> Document:
    """The mapping that `text` holds; `path` is for errors only."""
    try:
        node = _Loader(text).get_single_node()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = min(mark.line, text.count("\n")) + 1 if mark else None
        raise SpecError(
            f"not valid YAML: {getattr(error, 'problem', None) or error}",
            where=f"{path}:{line}" if line else str(path),
            fix="mend the syntax; a frequent cause is a tab, or a colon without a space after it",
            line=line,
        ) from error
    except UnicodeEncodeError as error:
        raise SpecError(
            "the text is not valid Unicode", where=str(path), fix="write other text"
        ) from error
    except RecursionError as error:
        raise SpecError(
            "the file is nested too deeply", where=str(path), fix="flatten it"
        ) from error
    if not isinstance(node, yaml.MappingNode):
        raise SpecError(
            "a spec is a mapping of keys to values",
            where=str(path),
            fix="see configs/ for examples",
        )
    reader = _Reader(path)
    return Document(path, reader.mapping(node, ()), reader.lines)


def value(text: str) -> Any:
    """One scalar, list or mapping as it would stand in a spec (for --set)."""
    return parse(f"value: {text}", Path("--set")).data["value"]


def override(document: Document, overrides: tuple[str, ...]) -> Document:
    """The document with values replaced or added: `key.path=value`, the value is YAML.

    Raises:
        SpecError: not of that form, or the path leads through something that is no mapping.
    """
    data, lines = copied(document.data), dict(document.lines)
    for text in overrides:
        key, equals, raw = text.partition("=")
        path = tuple(key.split("."))
        if not equals or not all(path):
            raise SpecError(
                f"--set {text!r} is not key.path=value",
                where="--set",
                fix="write for example --set backend.quantize.calibrate_mode=mse",
            )
        node = data
        for part in path[:-1]:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise SpecError(
                    f"{part!r} is not a mapping", where=f"--set {text}", fix="correct the path"
                )
        node[path[-1]] = value(raw)
        lines = {p: n for p, n in lines.items() if p[: len(path)] != path}
    return Document(document.path, data, lines)


def copied(value: Any) -> Any:
    """A copy of plain data; `copy.deepcopy` takes five times as long."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if isinstance(value, list) else value


def at(data: Any, path: KeyPath) -> Any:
    """What stands at `path` of nested mappings, None where nothing does."""
    for part in path:
        data = data.get(part) if isinstance(data, dict) else None
    return data


class _Loader(Composer, CParser, Resolver):
    """libyaml's parser, ten times the speed of PyYAML's own, with YAML 1.2 floats.

    Nodes are composed in Python: libyaml's composer recurses on the C stack, and deep nesting
    would crash the process.
    """

    def __init__(self, text: str) -> None:
        CParser.__init__(self, text)
        Composer.__init__(self)
        Resolver.__init__(self)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)$"),
    list("-+0123456789."),
)
_CONSTRUCTOR = SafeConstructor()
_SCALARS: dict[str, Callable[[yaml.ScalarNode], Hashable]] = {
    "tag:yaml.org,2002:null": _CONSTRUCTOR.construct_yaml_null,
    "tag:yaml.org,2002:bool": _CONSTRUCTOR.construct_yaml_bool,
    "tag:yaml.org,2002:int": _CONSTRUCTOR.construct_yaml_int,
    "tag:yaml.org,2002:float": _CONSTRUCTOR.construct_yaml_float,
    "tag:yaml.org,2002:str": _CONSTRUCTOR.construct_yaml_str,
    "tag:yaml.org,2002:timestamp": _CONSTRUCTOR.construct_yaml_str,
    "tag:yaml.org,2002:value": _CONSTRUCTOR.construct_yaml_str,
}


class _Reader:
    """Turns composed nodes into plain data, and notes lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[KeyPath, int] = {}
        self.count = 0

    def fail(self, what: str, node: yaml.Node, fix: str) -> SpecError:
        line = node.start_mark.line + 1
        return SpecError(what, where=f"{self.path}:{line}", fix=fix, line=line)

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        self.count += 1
        if self.count > _MAX_VALUES or len(path) > _MAX_DEPTH:
            raise self.fail("the file expands without bound", node, "remove its aliases")
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            if node.tag != "tag:yaml.org,2002:seq":
                raise self.fail(f"the tag {node.tag} is not allowed", node, "remove the tag")
            return [self.item(child, (*path, i)) for i, child in enumerate(node.value)]
        return self.scalar(node)

    def item(self, node: yaml.Node, path: KeyPath) -> Any:
        self.lines[path] = node.start_mark.line + 1
        return self.value(node, path)

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        if node.tag != "tag:yaml.org,2002:map":
            raise self.fail(f"the tag {node.tag} is not allowed", node, "remove the tag")
        result: dict[str, Any] = {}
        for key_node, child in node.value:
            key = self.scalar(key_node)
            if not isinstance(key, str) or len(key) > _MAX_KEY:
                shown = clip(repr(key))
                raise self.fail(f"the key {shown} is not a word", key_node, "quote or shorten it")
            if key in result:
                raise self.fail(f"the key {key!r} stands here twice", key_node, "remove one")
            self.lines[(*path, key)] = key_node.start_mark.line + 1
            result[key] = self.value(child, (*path, key))
        return result

    def scalar(self, node: yaml.Node) -> Hashable:
        if not isinstance(node, yaml.ScalarNode):
            raise self.fail("a key must be a word", node, "quote it")
        if node.tag == "tag:yaml.org,2002:merge":
            raise self.fail("merge keys (<<) are not read", node, "write the keys out")
        if node.tag not in _SCALARS:
            raise self.fail(f"the tag {clip(node.tag)} is not allowed", node, "remove the tag")
        if len(node.value) > _MAX_TEXT:
            raise self.fail(f"a value of {len(node.value)} characters", node, "shorten it")
        try:
            value = _SCALARS[node.tag](node)
        except (ValueError, KeyError, IndexError, yaml.YAMLError) as error:
            raise self.fail(
                f"{clip(node.value)!r} is not a valid value", node, "quote it"
            ) from error
        if isinstance(value, int) and abs(value) >= _MAX_INTEGER:
            raise self.fail(f"{clip(node.value)} is too large a number", node, "correct it")
        return value


def clip(text: str) -> str:
    """`text`, short enough to be shown in a message."""
    return text if len(text) <= 60 else f"{text[:57]}..."
