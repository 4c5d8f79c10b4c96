"""The compiler's kinds of error; each docstring states the cause, as the documentation shows it."""

from __future__ import annotations

from typing import ClassVar

from calib.errors import WorkbenchError


class SpecError(WorkbenchError):
    """The build spec is not valid: not YAML, a wrong type, a missing key, a value out of range."""

    def __init__(
        self, what: str, *, where: str = "", fix: str = "", line: int | None = None, key: str = ""
    ) -> None:
        super().__init__(what, where=where, fix=fix)
        self.line = line
        self.key = key


class UnknownKeyError(SpecError):
    """The spec has a key that neither we nor the vendor's compiler knows; often a misspelling."""


class CapabilityError(SpecError):
    """The spec asks for something the target cannot do, such as fp16."""


class FrontendError(SpecError):
    """The checkpoint's framework is not imported here; export it to ONNX."""


class ModelError(WorkbenchError):
    """The ONNX file is missing, damaged, or not a network we can read."""


class UnsupportedOperatorError(ModelError):
    """The integer semantics do not define this operator, or not with these attributes."""


class ShapeError(ModelError):
    """The input shape in the spec does not fit the network."""


class SizeError(WorkbenchError):
    """An image size that the network cannot process."""


class AccumulatorOverflowError(ModelError):
    """An int32 accumulator could overflow for some input; the build refuses rather than wrap."""


class CalibrationWarningError(WorkbenchError):
    """A calibration warning under `strict: true`: thresholds still move, or clip visibly."""


class CompileError(WorkbenchError):
    """The code generator or the host compiler failed."""

    exit_code: ClassVar[int] = 3


class HostError(WorkbenchError):
    """The library needs an instruction set, a tool or a package that this machine lacks."""


class BundleError(WorkbenchError):
    """A bundle is missing, incomplete, or was changed after it was built."""


class StorageError(WorkbenchError):
    """The output directory cannot be written: read-only, full, or not a directory."""


class FetchError(WorkbenchError):
    """A download failed or its digest is not the pinned one."""


class NotBitExactError(WorkbenchError):
    """The compiled library differs from the golden model: a bug in the workbench, please report."""

    exit_code: ClassVar[int] = 3
