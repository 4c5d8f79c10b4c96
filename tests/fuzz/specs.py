"""Hostile build specs, and what the loader and `check` must make of them."""

from __future__ import annotations

import copy
import functools
import io
import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from compiler import check, judges, spec, target
from compiler.errors import SpecError
from compiler.progress import Reporter
from compiler.spec import SpecFile
from compiler.target import Target
from tests.compiler.test_vendor_specs import CASES, data_of
from tests.fuzz.guard import Violation, require_text
from tests.fuzz.mutate import bytes_level, misspell, places

NAME = "spec"
SUFFIX = ".yaml"
MEMORY_BYTES = 512 << 20
SECONDS = 5.0
_CONFIGS = Path(__file__).parents[2] / "configs"


class Raw(str):
    """YAML text that goes into a spec as it stands."""


_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 1e-4, 0.5, 1.0, 99.9, -0.0, 1 << 31, 1 << 63, -(1 << 70), "",
    " ", "int8", "fp16", "fp32", "uint8", "percentile", "softmax", "yolov5_nms", "onnx", "pytorch",
    "huggingface", "../../etc/passwd", "/dev/zero", "/proc/self/mem", "/", ".", "..", "a\0b",
    "x" * 300, "\U0001f600", "\u202e\u2028", "a" * 9000, "n/" * 2000, "COLOR_BGR2RGB", "null",
    [], [[]], [None], [1, 3, 64, 96], [[1, 3, 8, 8], [1, 3, 9, 9]], [1] * 7, [-1, 0, 1 << 40, 5],
    {}, {"": 0}, {"type": None}, {"type": "Resize"}, {"type": "Resize", "size": 8},
    {"type": "softmax"}, {"type": []}, "é",
    {"input": [1, 3, 8, 8]}, {"x": [1, 3, 8, 8], "y": [1]}, {"a": {"b": {}}},
)  # fmt: skip
_TOKENS = """
    .nan .inf -.inf 0x10 0b11 010 1_000 1:30 190:20:30 1e400 -1e-400 2020-01-01 = << *a &a &a~
    !!null !!str !!int !!float !!bool !!binary !!set !!omap !!map !!seq ! !local !<x> %TAG --- ...
    | > |+ >- !!python/object/apply:os.system !!python/name:os.system !!python/module:os ? - : ,
    [ ] { } " ' # @ ` yes no on off Null TRUE 1. .5 +1 0o17 +.inf
"""
_RAW = (
    *map(Raw, _TOKENS.split()),
    *map(
        Raw,
        (
            "!!python/object/apply:os.system [id]",
            "!!python/object/new:os.system [id]",
            "!!timestamp x",
            "!!int x",
            "!!float x",
            "!!bool x",
            "!!binary ====",
            '"\\ud800"',
            '"\\0"',
            '"\\x9f\\U0010ffff"',
            "[*a, *a]",
            "{<<: *a}",
            "{a: 1, a: 2}",
            "[1, 2",
            "{a: 1",
            "'unended",
            "- - - - - -",
            "? ? ? ?",
            "&a [*a]",
            "&a {b: *a}",
            "x # comment",
            "9" * 400,
            "9" * 5000,
            "0x" + "f" * 9000,
            "1:" * 60 + "1",
            "[" * 60 + "]" * 60,
            "[" * 1200,
            "{a: " * 60,
            "{a: " * 400 + "1" + "}" * 400,
            "- " * 700 + "1",
            "|\n   text\n  less",
            ">\n\n\n",
            "\t1",
        ),
    ),
)
_LAUGHS = "a0: &a0 [lol]\n" + "\n".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)
)
_WORDS = tuple(
    word if isinstance(word, bytes) else word.encode()
    for word in (
        *_RAW, b"\n", b"\r\n", b"\r", b"\t", b": ", b"- ", b"\n  ", b"\0", b"\xef\xbb\xbf",
        b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x80\xa8", b"\x85",
        b"\x1b[31m", b"dtype",
    )
)  # fmt: skip


@functools.cache
def _seeds() -> tuple[tuple[dict[str, Any], ...], tuple[str, ...]]:
    """Specs as data, and as text with comments and flow forms."""
    data = tuple(data_of(case) for case in CASES.values())
    return data, tuple(p.read_text(encoding="utf-8") for p in sorted(_CONFIGS.rglob("*.yaml")))


def _write(value: Any, indent: str = "") -> str:
    """Nested data as block YAML; `Raw` text stands as it is."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict) and value:
        lines = (f"{indent}{_key(k)}:{_below(v, indent)}" for k, v in value.items())
        return "\n".join(lines)
    if isinstance(value, list) and value:
        return "\n".join(f"{indent}-{_below(v, indent)}" for v in value)
    return json.dumps(value, ensure_ascii=len(indent) % 4 == 0)


def _below(value: Any, indent: str) -> str:
    nested = isinstance(value, dict | list) and value
    return f"\n{_write(value, indent + '  ')}" if nested else f" {_write(value)}"


def _key(key: object) -> str:
    text = str(key)
    return text if isinstance(key, Raw) or text.isidentifier() else json.dumps(text)


def _change(rng: random.Random, data: dict[str, Any]) -> None:
    """One change of keys or values, in place."""
    found = places(data)
    if not found:
        data["name"] = rng.choice(_VALUES)
        return
    *parents, last = rng.choice(found)
    holder: Any = data
    for part in parents:
        holder = holder[part]
    action = rng.randrange(10)
    if action < 2:
        holder[last] = copy.deepcopy(rng.choice(_VALUES))
    elif action == 2:
        holder[last] = rng.choice(_RAW)
    elif action in (3, 4):
        del holder[last]
    elif action == 5 and isinstance(holder, dict):
        holder[misspell(rng, str(last))] = holder.pop(last)
    elif action == 6:  # a subtree elsewhere
        *path, name = rng.choice(found)
        node: Any = data
        for part in path:
            node = node[part]
        holder[last] = copy.deepcopy(node[name])
    elif action == 7 and isinstance(holder, dict):
        key = rng.choice(
            (Raw("? [1]"), Raw("<<"), Raw("3"), Raw("*a"), Raw("&a k"), Raw(f"{last}"))
        )
        holder[Raw(f"{key}")] = copy.deepcopy(rng.choice(_VALUES + _RAW))
    elif action == 8:  # an anchor here
        value = holder[last]
        flow = isinstance(value, dict | list)
        holder[last] = Raw(
            f"&a {json.dumps(value, default=str)}" if flow else f"&a {_write(value)}"
        )
    else:
        holder[last] = [holder[last]] if rng.randrange(2) else {"type": holder[last]}


def make(rng: random.Random) -> bytes:
    """One case: a real spec, changed as data, as text, as bytes, or all of these."""
    trees, texts = _seeds()
    if rng.random() < 0.85:
        data = copy.deepcopy(rng.choice(trees))
        for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 5))):
            _change(rng, data)
        text = _write(data)
        if rng.random() < 0.002:
            text = f"{_LAUGHS}\n{text}"
    else:
        text = rng.choice(texts)
    kind = rng.random()
    if kind < 0.15:
        text = _lines(rng, text)
    encoded = text.encode("utf-8", "surrogatepass")
    return bytes_level(rng, encoded, _WORDS) if kind > 0.8 else encoded


def _lines(rng: random.Random, text: str) -> str:
    """Lines of a text swapped, doubled, indented otherwise, or dropped."""
    lines = text.split("\n")
    for _ in range(rng.randint(1, 3)):
        a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
        match rng.randrange(5):
            case 0:
                lines[a], lines[b] = lines[b], lines[a]
            case 1:
                lines.insert(a, lines[b])
            case 2:
                lines[a] = " " * rng.randrange(5) + lines[a].lstrip()
            case 3:
                lines[a] = f"{lines[a].partition(':')[0]}: {rng.choice(_RAW)}"
            case _ if len(lines) > 1:
                del lines[a]
    return "\n".join(lines)


_REPORTER = Reporter(Console(file=io.StringIO(), soft_wrap=True))


def judge(data: bytes, folder: Path) -> str:
    """Loads one spec and judges it against its target: the verdict, or the first error's code."""
    path = folder / f"case{SUFFIX}"
    path.write_bytes(data)
    if len(data) % 8 == 0:
        return _verdict(path)
    reading = spec.read(path)
    codes = [require_text(fault) for fault in reading.faults]
    if reading.file is None:
        if not codes:
            raise Violation("neither a spec nor a fault")
        return codes[0]
    try:
        refusals = judges.check(reading.file, _target(reading.file))
    except SpecError as error:
        refusals = (error,)
    codes += [require_text(refusal) for refusal in refusals]
    return codes[0] if codes else "buildable"


def _target(file: SpecFile) -> Target:
    """The target of a spec; a shipped one is read once, not in each of a million cases."""
    name = file.spec.backend.target
    if name not in _SHIPPED:
        return target.load(file)
    if name not in _targets:
        _targets[name] = target.load(file)
    return _targets[name]


_SHIPPED = ("vacc", "vacc-asym")
_targets: dict[str, Target] = {}


def _verdict(path: Path) -> str:
    """By way of the command: what it prints and writes must be text as well."""
    verdict = check.judge(path)
    check._show(verdict, _REPORTER)
    _REPORTER.console.file.truncate(0)
    json.dumps(asdict(verdict)).encode()
    if (verdict.verdict == "buildable") is bool(verdict.reasons):
        raise Violation(f"{verdict.verdict} with {len(verdict.reasons)} reasons")
    if not all(reason.message and reason.fix for reason in verdict.reasons):
        raise Violation(f"a reason lacks its text: {verdict.reasons!r:.300}")
    return verdict.reasons[0].code if verdict.reasons else "buildable"
