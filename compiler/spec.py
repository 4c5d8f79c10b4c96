"""The build spec: one YAML file, read strictly into frozen values.

Relative paths in a spec are relative to the working directory, as with the vendor's compiler.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from calib.images import warnings as process_op_warnings
from calib.methods import METHODS
from compiler import spec_faults, vendor_keys, yaml_source
from compiler.errors import SpecError
from compiler.schema import AUTO, SOFTMAX, Spec
from compiler.spec_faults import Repair, at, did_you_mean
from compiler.yaml_source import Document, KeyPath

_RANGELESS = ("max", "kl_divergence", "mse", AUTO)  # methods that take no calibrate_range


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

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is legal but has no effect, is read in another way, or is probably not meant."""
        ops = self.spec.dataset.process_ops if self.spec.dataset else ()
        idle = f"without effect on this target: {', '.join(self.no_effect)}"
        return (*((idle,) if self.no_effect else ()), *self.notes, *process_op_warnings(ops))

    def at(self, *path: str | int) -> dict[str, Any]:
        """Where a key is, as keyword arguments of `SpecError` (`spec_faults.at`)."""
        return at(self.document, *path)


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
