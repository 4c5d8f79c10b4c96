"""The build spec: one YAML file, read strictly into frozen values.

Relative paths in a spec are relative to the working directory, as with the vendor's compiler.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from calib.images import DecodeImage, Normalize, ProcessOp, ToTensor
from calib.methods import METHODS
from compiler import spec_faults, vendor_keys, yaml_source
from compiler.errors import SpecError
from compiler.spec_faults import Repair, at, did_you_mean
from compiler.yaml_source import Document, KeyPath

__all__ = ["Spec", "SpecFile", "at", "check", "load", "read"]

Dtype = Literal["float32", "uint8"]
Protocol = Literal["standard", "vendor"]
SOFTMAX = "softmax"  # the one head of `graph.extra_ops` that is built
AUTO = "auto"  # the calibrate_mode that tries all methods, see `compiler.recovery.auto`
_RANGELESS = ("max", "kl_divergence", "mse", AUTO)  # methods that take no calibrate_range
_Side = Annotated[int, Field(ge=1, le=1 << 16)]


def _path(text: str) -> str:
    if not text or "\0" in text or any(len(os.fsencode(p)) > 255 for p in text.split("/")):
        raise ValueError("no file can have this name")
    return text


_Word = Annotated[str, Field(max_length=100)]
_Path = Annotated[str, Field(max_length=4000), AfterValidator(_path)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Frontend(_Part):
    """The trained network. Names and shapes are judged by `target.check`, with reasons."""

    type: _Word | None = None
    checkpoint: _Path
    shape: dict[str, Annotated[list[_Side], Field(min_length=1, max_length=6)]]
    dtype: _Word = "fp32"


class Host(_Part):
    """The machine that runs the library; None means: detect it."""

    isa: _Word | None = None
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None


class Compile(_Part):
    """Code generation."""

    host: Host = Host()


class Quantize(_Part):
    """How float becomes int8.

    Attributes:
        calibrate_mode: a key of `calib.methods.METHODS`, or `auto`: the one of least output error.
        calibrate_range: fraction of the values that `percentile` keeps.
        weight_scale: `float` (the vendor's word is `max`) or `power2`, see `calib.qparams`.
        exclude_layers, skip_conv_layers: layers (nodes or numbers; numbers of convolutions) to
            keep in a higher precision; judged by `target.check`.
        equalize: cross-layer equalization of channel ranges, see `compiler.recovery`.
        split_residuals: compute a cheap convolution twice where its output is also a residual, so
            that equalization can scale both freely, see `compiler.recovery.split`.
        rounding: of the weights, to nearest or GPTQ with a least-squares target.
        search: `output` refines the thresholds by the error of the output.
        strict: calibration warnings become errors.
        seed: of everything random in the build.
    """

    calibrate_mode: _Word = "percentile"
    calibrate_range: Annotated[float, Field(gt=0.5, le=1)] = 0.99999
    quantize_per_channel: bool = True
    weight_scale: Literal["float", "max", "power2"] = "float"
    exclude_layers: list[int | str] | None = None
    skip_conv_layers: list[int] | None = None
    equalize: bool = False
    split_residuals: bool = False
    rounding: Literal["nearest", "gptq"] = "nearest"
    search: Literal["none", "output"] = "none"
    strict: bool = False
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0


class Port(_Part):
    """Element type at one end of the network."""

    dtype: Dtype = "float32"


class Backend(_Part):
    """Target, quantization and compilation."""

    type: _Word = "tvm_vacc"
    dtype: _Word
    target: _Path = "vacc"
    compile: Compile = Compile()
    quantize: Quantize = Quantize()
    input: Port = Port()
    output: Port = Port()


class Sampler(_Part):
    """The first `get_data_num` files with `suffix`, in name order."""

    suffix: _Word | None = None
    get_data_num: Annotated[int, Field(ge=1, le=1_000_000)] = 50


class Dataset(_Part):
    """Calibration images and their pre-processing."""

    type: _Word = "tvm"
    path: _Path | None = None
    fallback: Literal["samples"] | None = None
    sampler: Sampler = Sampler()
    process_ops: list[ProcessOp] = [DecodeImage(), Normalize(norm_type=None), ToTensor()]


class ExtraOps(_Part):
    """A head that the vendor's compiler appends to the network."""

    type: _Word | None = None
    params: dict[str, Any] | None = None


class GraphPart(_Part):
    """Changes to the graph before it is built."""

    extra_ops: ExtraOps | None = None


class Workspace(_Part):
    """Where bundles go: the bundle is `path`/`name`."""

    path: _Path = "artifacts"


class Gate(_Part):
    """What the build must keep; RGB means under the spec's protocol. None is not checked."""

    psnr_drop_db: float | None = None
    ssim_drop: float | None = None
    above_bicubic: bool = False


class Verify(_Part):
    """Held-out images and the gate. Without `hr`, the sample photographs are used."""

    lr: _Path | None = None
    hr: _Path | None = None
    scale: Annotated[int, Field(ge=1, le=16)] | None = None
    subset: Literal["bicubic_plusplus_48"] | None = None
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
    """A spec with the file it came from.

    Attributes:
        no_effect: keys in it that mean nothing here, dotted, in file order.
        notes: how forms were read that are not literal, one sentence each.
    """

    spec: Spec
    document: Document
    no_effect: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The spec file."""
        return self.document.path


@dataclass(frozen=True)
class Reading:
    """What a file holds: its faults in file order, and the spec without them.

    Attributes:
        file: the rest of the spec, for further judgement; None where it makes no spec.
    """

    file: SpecFile | None
    faults: tuple[SpecError, ...]


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
    reading = read(path, overrides)
    return (None if reading.faults else reading.file), reading.faults


def read(path: Path, overrides: tuple[str, ...] = ()) -> Reading:
    """Every fault of a file, and the spec that is left without what is at fault."""
    try:
        document = yaml_source.read(path)
        if overrides:
            document = yaml_source.override(document, overrides)
    except SpecError as error:
        return Reading(None, (error,))
    if fault := spec_faults.old_form(document):
        return Reading(None, (fault,))
    data = yaml_source.copied(document.data)
    stripped = vendor_keys.strip(data)
    notes = vendor_keys.settle(data)
    spec, faults, document = _validate(data, document)
    if spec is None:
        return Reading(None, faults)
    stripped = (*stripped, *_idle_keys(spec))
    ordered = sorted(stripped, key=lambda p: document.line(p) or 0)
    no_effect = tuple(".".join(map(str, p)) for p in ordered)
    return Reading(SpecFile(spec, document, no_effect, notes), faults)


def _validate(
    data: dict[str, Any], document: Document
) -> tuple[Spec | None, tuple[SpecError, ...], Document]:
    """The spec without what is at fault, if that makes one; the faults in file order; and the
    document with the right names of misspelt keys.
    """
    try:
        spec = Spec.model_validate(data)
    except ValidationError as error:
        faults, repairs = spec_faults.explain(error, document, Spec)
        for repair in repairs:
            _apply(repair, data)
        try:
            spec = Spec.model_validate(data)
        except ValidationError:
            return None, _in_file_order(faults), document
        document = spec_faults.renamed(document, repairs)
    else:
        faults = []
    mode, known = spec.backend.quantize.calibrate_mode, (*METHODS, AUTO)
    if mode not in known:
        faults.append(
            SpecError(
                f"unknown calibrate_mode {mode!r}{did_you_mean(mode, known)}",
                fix=f"use one of {', '.join(known)}",
                **at(document, "backend", "quantize", "calibrate_mode"),
            )
        )
    return spec, _in_file_order(faults), document


def _in_file_order(faults: list[SpecError]) -> tuple[SpecError, ...]:
    return tuple(sorted(faults, key=lambda fault: fault.line or 0))


def _idle_keys(spec: Spec) -> tuple[KeyPath, ...]:
    """Keys of the schema that have no effect beside the other values."""
    idle: list[KeyPath] = []
    quantize, graph = spec.backend.quantize, spec.graph
    if "calibrate_range" in quantize.model_fields_set and quantize.calibrate_mode in _RANGELESS:
        idle.append(("backend", "quantize", "calibrate_range"))
    head = graph.extra_ops if graph else None
    if head and head.type in (None, SOFTMAX) and head.params:
        idle.append(("graph", "extra_ops", "params"))
    if set(spec.verify.metrics) != {"psnr", "ssim"}:
        idle.append(("verify", "metrics"))  # both are measured in any case
    if spec.backend.type == "tvm_runmodel":
        idle.append(("backend", "type"))
    return tuple(idle)


def _apply(repair: Repair, data: Any) -> None:
    """Takes the named value at fault out of `data` (a list as a whole), or renames its key."""
    path = repair.path
    if path[:2] == ("dataset", "process_ops"):
        path = path[:2]
    while path and isinstance(path[-1], int):
        path = path[:-1]
    for part in path[:-1]:
        data = data.get(part) if isinstance(data, dict) else None
    if isinstance(data, dict) and path and path[-1] in data:
        value = data.pop(path[-1])
        if repair.name and path == repair.path:
            data.setdefault(repair.name, value)
