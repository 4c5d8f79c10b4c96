"""The compiler's kinds of error; each docstring states the cause, as the documentation shows it."""

from __future__ import annotations

from typing import ClassVar

from calib.errors import WorkbenchError


class SpecError(WorkbenchError):
    """The build spec is not valid: not YAML, a wrong type, a missing key, a value out of range.

    Fix: correct the line that the message names; configs/ holds examples, docs/spec.md every key.
    """

    def __init__(
        self, what: str, *, where: str = "", fix: str = "", line: int | None = None, key: str = ""
    ) -> None:
        super().__init__(what, where=where, fix=fix)
        self.line = line
        self.key = key


class UnknownKeyError(SpecError):
    """The spec has a key that neither we nor the vendor's compiler knows; often a misspelling.

    Fix: write the key that the message proposes, or remove it.
    """


class CapabilityError(SpecError):
    """The spec asks for something the target cannot do, such as fp16.

    Fix: follow the message, or name another target in `backend.target`.
    """


class FrontendError(SpecError):
    """The checkpoint's framework is not imported here; export it to ONNX.

    Fix: export the network as the message says, then write `type: onnx`.
    """


class ModelError(WorkbenchError):
    """The ONNX file is missing, damaged, or not a network we can read.

    Fix: correct `frontend.checkpoint`, or export or fetch the network again.
    """


class UnsupportedOperatorError(ModelError):
    """The integer semantics do not define this operator, or not with these attributes.

    Fix: build the network from the operators of its target file.
    """


class ShapeError(ModelError):
    """The input shape in the spec does not fit the network.

    Fix: correct `frontend.shape`; the message names the network's inputs.
    """


class SizeError(WorkbenchError):
    """An image size that the network cannot process.

    Fix: scale or crop the image to a size that the message names.
    """


class VideoError(WorkbenchError):
    """A video cannot be read (damaged, cut short) or OpenCV cannot write it (codec, container).

    Fix: export the video again, or name another container or `--codec`.
    """


class AccumulatorOverflowError(ModelError):
    """An int32 accumulator could overflow for some input; the build refuses rather than wrap.

    Fix: split the layer that the message names, or shrink its weights.
    """


class CalibrationWarningError(WorkbenchError):
    """A calibration warning under `strict: true`: thresholds still move, or clip visibly.

    Fix: calibrate on more images, or write `strict: false`.
    """


class CompileError(WorkbenchError):
    """The code generator or the host compiler failed.

    Fix: build with `--set backend.compile.host.isa=portable`, and report it.
    """

    exit_code: ClassVar[int] = 3


class HostError(WorkbenchError):
    """The library needs an instruction set, a tool or a package that this machine lacks.

    Fix: install what the message names, or build on this machine.
    """


class BundleError(WorkbenchError):
    """A bundle is missing, incomplete, or was changed after it was built.

    Fix: build the bundle again, or fetch it again.
    """


class GateError(WorkbenchError):
    """A bundle that missed its accuracy gate is to be published.

    Fix: mend the network or the spec, and build again; only what passes its gate is published.
    """


class RegistryError(WorkbenchError):
    """The registry cannot be reached, refuses the login, or does not have the artifact.

    Fix: check the reference and the login; `--insecure` is for registries that speak plain HTTP.
    """


class ArtifactError(WorkbenchError):
    """What was fetched is no published bundle: a wrong digest, an unsafe path, or too large.

    Fix: fetch it again; if it fails again, do not use it and ask its publisher.
    """


class SignatureError(WorkbenchError):
    """A bundle has no signature, or one of another key or of other files; or a key is unusable.

    Fix: check that the key is the publisher's; if it is, do not use the bundle.
    """


class StorageError(WorkbenchError):
    """The output directory cannot be written: read-only, full, or not a directory.

    Fix: free some space, correct the permissions, or choose another `--out`.
    """


class FetchError(WorkbenchError):
    """A download failed or its digest is not the pinned one.

    Fix: run the command again: it resumes; or name a local file with FROM=PATH.
    """


class NotBitExactError(WorkbenchError):
    """The compiled library differs from the golden model: a bug in the workbench, please report.

    Fix: build with `--set backend.compile.host.isa=portable`, and report it.
    """

    exit_code: ClassVar[int] = 3


def line_of(error: Exception, index: int = 0) -> str:
    """One line of another library's message, which may have none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[index]
