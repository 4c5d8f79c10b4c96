"""The build spec: one YAML file, read strictly into frozen values.

Relative paths in a spec are relative to the working directory, as with the vendor's compiler.
"""

from __future__ import annotations

import copy
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from calib.images import DecodeImage, Normalize, ProcessOp, ToTensor
from calib.methods import METHODS
from compiler import yaml_source
from compiler.errors import SpecError, UnknownKeyError
from compiler.vendor_keys import NO_EFFECT
from compiler.yaml_source import Document, KeyPath

Dtype = Literal["float32", "uint8"]
Protocol = Literal["standard", "vendor"]
_Side = Annotated[int, Field(ge=1, le=1 << 16)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Frontend(_Part):
    """The trained network. `type` and `dtype` are judged by `target.check`, with reasons."""

    type: str | None = "onnx"
    checkpoint: str
    shape: dict[str, Annotated[list[_Side], Field(min_length=1, max_length=6)]]
    dtype: str = "fp32"
    model_kwargs: dict[str, Any] | None = None


class Host(_Part):
    """The machine that runs the library; None means: detect it."""

    isa: str | None = None
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None


class Compile(_Part):
    """Code generation."""

    host: Host = Host()


class Quantize(_Part):
    """How float becomes int8.

    Attributes:
        calibrate_range: fraction of the values that `percentile` keeps.
        exclude_layers, skip_conv_layers: layers (nodes; numbers of convolutions) to keep in a
            higher precision; judged by `target.check`.
        strict: calibration warnings become errors.
        seed: of everything random in the build.
    """

    calibrate_mode: str = "percentile"
    calibrate_range: Annotated[float, Field(gt=0.5, le=1)] = 0.99999
    quantize_per_channel: bool = True
    weight_scale: Literal["float", "power2"] = "float"
    exclude_layers: list[str] | None = None
    skip_conv_layers: list[int] | None = None
    strict: bool = False
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0


class Port(_Part):
    """Element type at one end of the network."""

    dtype: Dtype = "float32"


class Backend(_Part):
    """Target, quantization and compilation."""

    type: str = "tvm_vacc"
    dtype: str
    target: str = "vacc"
    compile: Compile = Compile()
    quantize: Quantize = Quantize()
    input: Port = Port()
    output: Port = Port()


class Sampler(_Part):
    """The first `get_data_num` files with `suffix`, in name order."""

    suffix: str | None = None
    get_data_num: Annotated[int, Field(ge=1, le=1_000_000)] = 50


class Dataset(_Part):
    """Calibration images and their pre-processing."""

    type: str = "tvm"
    path: str | None = None
    fallback: Literal["samples"] | None = None
    sampler: Sampler = Sampler()
    process_ops: list[ProcessOp] = [DecodeImage(), Normalize(), ToTensor()]


class ExtraOps(_Part):
    """A head that the vendor's compiler appends to the network."""

    type: str | None = None
    params: dict[str, Any] | None = None


class GraphPart(_Part):
    """Changes to the graph before it is built."""

    extra_ops: ExtraOps | None = None


class Workspace(_Part):
    """Where bundles go: the bundle is `path`/`name`."""

    path: str = "artifacts"


class Gate(_Part):
    """What the build must keep; RGB means under the spec's protocol. None is not checked."""

    psnr_drop_db: float | None = None
    ssim_drop: float | None = None
    above_bicubic: bool = False


class Verify(_Part):
    """Held-out images and the gate. Without `hr`, the sample photographs are used."""

    lr: str | None = None
    hr: str | None = None
    scale: Annotated[int, Field(ge=1, le=16)] | None = None
    protocol: Protocol = "standard"
    metrics: list[Literal["psnr", "ssim"]] = ["psnr", "ssim"]
    gate: Gate = Gate()


class Spec(_Part):
    """A complete build."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    frontend: Frontend
    backend: Backend
    graph: GraphPart | None = None
    dataset: Dataset | None = None
    workspace: Workspace = Workspace()
    verify: Verify = Verify()


@dataclass(frozen=True)
class SpecFile:
    """A valid spec with the file it came from.

    Attributes:
        no_effect: vendor keys in it that mean nothing here, dotted, in file order.
    """

    spec: Spec
    document: Document
    no_effect: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The spec file."""
        return self.document.path


def load(path: Path, overrides: tuple[str, ...] = ()) -> SpecFile:
    """Reads a spec.

    Args:
        overrides: `key.path=value` strings that replace or add values; the value is YAML.
    Raises:
        SpecError: the first fault, and how many more there are.
    """
    spec, errors = check(path, overrides)
    if spec is not None:
        return spec
    first, *rest = errors
    if rest:
        first.what += f" (and {len(rest)} more: `python -m compiler.check {path}` lists all)"
    raise first


def check(
    path: Path, overrides: tuple[str, ...] = ()
) -> tuple[SpecFile | None, tuple[SpecError, ...]]:
    """The spec, or every fault in it in file order."""
    try:
        document = _override(yaml_source.read(path), overrides)
    except SpecError as error:
        return None, (error,)
    data = copy.deepcopy(document.data)
    no_effect = _strip_vendor_keys(data)
    try:
        spec = Spec.model_validate(data)
        _check_values(spec, document)
    except ValidationError as error:
        problems = [_explain(p, document) for p in error.errors() if not _misspelt(p, error)]
        return None, tuple(sorted(problems, key=lambda e: e.line or 0))
    except SpecError as error:
        return None, (error,)
    return SpecFile(spec, document, no_effect), ()


def at(document: Document, *path: str | int) -> dict[str, Any]:
    """Keyword arguments `where`, `line` and `key` of a SpecError about `path`."""
    key = ".".join(map(str, path))
    place = document.where(path)
    return {"where": f"{place} {key}", "line": document.line(path), "key": key}


def _check_values(spec: Spec, document: Document) -> None:
    mode = spec.backend.quantize.calibrate_mode
    if mode not in METHODS:
        raise SpecError(
            f"unknown calibrate_mode {mode!r}{_did_you_mean(mode, tuple(METHODS))}",
            fix=f"use one of {', '.join(METHODS)}",
            **at(document, "backend", "quantize", "calibrate_mode"),
        )


def _override(document: Document, overrides: tuple[str, ...]) -> Document:
    data, lines = copy.deepcopy(document.data), dict(document.lines)
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
        node[path[-1]] = yaml_source.value(raw)
        lines = {p: n for p, n in lines.items() if p[: len(path)] != path}
    return Document(document.path, data, lines)


def _strip_vendor_keys(data: dict[str, Any]) -> tuple[str, ...]:
    found = []
    for path, names in NO_EFFECT.items():
        node: Any = data
        for part in path:
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict):
            for name in [n for n in node if n in names]:
                del node[name]
                found.append(".".join((*map(str, path), name)))
    return tuple(found)


def _explain(problem: Any, document: Document) -> SpecError:
    """One pydantic error as ours: file:line, what was expected, did you mean."""
    path: KeyPath = _real_path(problem["loc"], document)
    place = at(document, *path)
    match problem["type"]:
        case "extra_forbidden":
            name, known = str(path[-1]), _known_keys(path[:-1])
            return UnknownKeyError(
                f"unknown key {name!r}{_did_you_mean(name, known)}",
                fix=f"known here: {', '.join(sorted(known))}" if known else "remove it",
                **place,
            )
        case "missing":
            return SpecError(f"the key {path[-1]!r} is missing", fix="add it", **place)
        case _:
            got = problem["input"]
            shown = repr(got) if isinstance(got, str | int | float | bool | None) else "this"
            return SpecError(f"{shown}: {problem['msg']}", fix="correct the value", **place)


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
    return bool(difflib.get_close_matches(str(name), unknown, n=1))


def _real_path(loc: tuple[str | int, ...], document: Document) -> KeyPath:
    """pydantic's location without the union tags that it inserts."""
    path: list[str | int] = []
    node: Any = document.data
    for i, part in enumerate(loc):
        last = i == len(loc) - 1
        if isinstance(node, dict) and (part in node or last):
            node = node.get(part)
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
        elif not last:
            continue
        path.append(part)
    return tuple(path)


def _known_keys(path: KeyPath) -> tuple[str, ...]:
    """Keys that the schema and the vendor know at `path`."""
    model: Any = Spec
    for part in path:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return ()
        options = [field.annotation, *get_args(field.annotation)]
        model = next((o for o in options if hasattr(o, "model_fields")), None)
    return (*getattr(model, "model_fields", ()), *NO_EFFECT.get(path, ()))


def _did_you_mean(name: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" - did you mean {close[0]!r}?" if close else ""
