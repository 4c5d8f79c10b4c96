"""The target: what the accelerator can do, and what a spec asks of it, judged before any work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from calib.errors import ProcessOpError, WorkbenchError
from calib.images import SUFFIXES, channels
from compiler import yaml_source
from compiler.errors import CapabilityError, FrontendError, SpecError
from compiler.spec import SOFTMAX, Spec, SpecFile, at
from compiler.spec_faults import did_you_mean

TARGETS = Path(__file__).parents[1] / "configs" / "targets"

FRONTENDS = ("onnx", "pytorch")  # what is imported here
_BACKENDS = ("tvm_vacc", "tvm_runmodel")  # the vendor's two runtimes; one library serves both
_FLOATS = ("fp32", "float32")
_EXPORT = {
    "huggingface": "export it with `optimum-cli export onnx --model NAME DIR`",
    "keras": "export it with `python -m tf2onnx.convert --keras FILE --output FILE.onnx`",
    "tensorflow": "export it with `python -m tf2onnx.convert --saved-model DIR --output FILE.onnx`",
    "darknet": "convert it with a darknet2onnx script of the model's authors",
    "torch": "save it as TorchScript (torch.jit.trace(model, example).save('FILE.pt')) and write "
    "`type: pytorch`; or export it with torch.onnx.export",
    "caffe": "convert it with caffe2onnx",
    "paddle": "export it with `paddle2onnx --model_dir DIR --save_file FILE.onnx`",
}


class Figure(BaseModel):
    """One figure of the hardware, its unit and where it comes from."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    value: float
    unit: str
    source: str
    assumed: bool = False


class Target(BaseModel):
    """One file of configs/targets.

    Attributes:
        dtypes: what `backend.dtype` may be; more than is built here cannot be promised.
        activations: symmetric (all zero points 0) or asymmetric.
        mixed_precision: whether single layers may stay in a higher precision; none does here.
        operators: ONNX operators, each with the data types it has a kernel for.
        hardware: figures for the cost model.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    name: str
    description: str
    dtypes: list[Literal["int8"]]
    activations: Literal["symmetric", "asymmetric"]
    mixed_precision: Literal[False]
    operators: dict[str, list[str]]
    hardware: dict[str, Figure]

    @property
    def symmetric(self) -> bool:
        """Whether activations have no zero point."""
        return self.activations == "symmetric"


@dataclass(frozen=True)
class _Judged:
    """A spec file and its target, while it is judged."""

    file: SpecFile
    target: Target


def load(file: SpecFile) -> Target:
    """The target that a spec names: a name in configs/targets, or a path.

    Raises:
        SpecError: no such target, or its file is not valid.
    """
    name = file.spec.backend.target
    path = Path(name) if name.endswith((".yaml", ".yml")) else TARGETS / f"{name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in TARGETS.glob("*.yaml"))
        raise SpecError(
            f"there is no target {name!r}",
            fix=f"use one of {', '.join(known)}, or the path of a target file",
            **at(file.document, "backend", "target"),
        )
    document = yaml_source.read(path)
    try:
        return Target.model_validate(document.data)
    except ValidationError as error:
        problem = error.errors()[0]
        raise SpecError(
            f"target file: {problem['msg']}",
            fix="compare it with configs/targets/vacc.yaml",
            **at(document, *problem["loc"]),
        ) from error


def check(file: SpecFile, target: Target) -> tuple[SpecError, ...]:
    """Everything that the spec asks and the target or this workbench cannot do, in file order."""
    judged = _Judged(file, target)
    found = [judge(judged) for judge in _JUDGES]
    refusals = [error for error in found if error is not None]
    return tuple(sorted(refusals, key=lambda error: error.line or 0))


def require(file: SpecFile, target: Target) -> None:
    """Raises the first of `check`'s refusals, if any."""
    for error in check(file, target):
        raise error


def _dtype(judged: _Judged) -> SpecError | None:
    dtype, target = judged.file.spec.backend.dtype, judged.target
    if dtype in target.dtypes:
        return None
    reason = f"target {target.name} builds {', '.join(target.dtypes)} only, not {dtype}"
    if dtype.lower() in target.dtypes:
        reason += did_you_mean(dtype, target.dtypes)
    elif blocked := _first_without_kernel(judged):
        reason += f"; {blocked}"
    return CapabilityError(
        reason,
        fix="write `dtype: int8` and name calibration images in `dataset:`",
        **at(judged.file.document, "backend", "dtype"),
    )


def _compile_type(judged: _Judged) -> SpecError | None:
    """A word in `compile.data_type` that names another type; the vendor's numbers say nothing."""
    path = ("backend", "compile", "data_type")
    value = yaml_source.at(judged.file.document.data, path)
    if not isinstance(value, str) or value.lower() in judged.target.dtypes:
        return None
    return CapabilityError(
        f"target {judged.target.name} builds {', '.join(judged.target.dtypes)} only, "
        f"not {yaml_source.clip(value)}",
        fix="remove data_type; backend.dtype says what is built",
        **at(judged.file.document, *path),
    )


def _first_without_kernel(judged: _Judged) -> str:
    """The first operator without a kernel of the spec's dtype, where the checkpoint can be read."""
    spec, target = judged.file.spec, judged.target
    from compiler import model  # onnx is slow to import, and most specs never get here

    shape = {name: tuple(dims) for name, dims in spec.frontend.shape.items()}
    try:
        graph = model.canonical(model.load(Path(spec.frontend.checkpoint), shape).proto)
    except WorkbenchError:  # whatever is wrong with the file, the dtype is refused all the same
        return ""
    for operator, node in model.operators(graph):
        if spec.backend.dtype not in target.operators.get(operator, []):
            shown = f"{operator} (PixelShuffle)" if operator == "DepthToSpace" else operator
            return f"{shown}, node {node!r}, has no {spec.backend.dtype} kernel there"
    return ""


def _imported(judged: _Judged) -> bool:
    """Whether the network can be read at all; otherwise its input and images do not matter."""
    return judged.file.spec.frontend.type in FRONTENDS


def _frontend(judged: _Judged) -> SpecError | None:
    frontend = judged.file.spec.frontend
    if _imported(judged):
        return None
    if frontend.type is None:
        return FrontendError(
            f"frontend.type is absent, and the checkpoint {frontend.checkpoint!r} does not tell it",
            fix="export the network to ONNX and write `type: onnx`",
            **at(judged.file.document, "frontend", "checkpoint"),
        )
    known = (*FRONTENDS, *_EXPORT)
    meant = "" if frontend.type in known else did_you_mean(frontend.type, known)
    hint = _EXPORT.get(frontend.type, "correct the word" if meant else "export the network to ONNX")
    place = ("frontend", "type")
    if place not in judged.file.document.lines:
        place = ("frontend", "checkpoint")
    return FrontendError(
        f"frontend {frontend.type!r} is not imported here{meant}",
        fix=hint if meant or frontend.type == "torch" else f"{hint}, then write `type: onnx`",
        **at(judged.file.document, *place),
    )


def _shape(judged: _Judged) -> SpecError | None:
    """One image in: [1, C, H, W]. The integer semantics define nothing else."""
    shapes = judged.file.spec.frontend.shape
    if not _imported(judged):
        return None
    place = at(judged.file.document, "frontend", "shape")
    if len(shapes) != 1:
        names = ", ".join(shapes) or "none"
        return CapabilityError(
            f"the network has {len(shapes)} inputs ({names}); networks of one image are built here",
            fix="write shape: {NAME: [1, C, H, W]}",
            **place,
        )
    ((name, dims),) = shapes.items()
    place = at(judged.file.document, "frontend", "shape", name)
    if len(dims) != 4:
        return CapabilityError(
            f"the input {name} has {len(dims)} dimensions {dims}, no image has",
            fix=f"write shape: {{{name}: [1, C, H, W]}}",
            **place,
        )
    if dims[0] != 1:
        return CapabilityError(
            f"the batch size is {dims[0]}; libraries take one image at a time",
            fix=f"write shape: {{{name}: {[1, *dims[1:]]}}} and run the images one after another",
            **place,
        )
    return None


def _input_type(judged: _Judged) -> SpecError | None:
    dtype = judged.file.spec.frontend.dtype
    if not _imported(judged) or dtype in _FLOATS:
        return None
    return CapabilityError(
        f"the network's input is {dtype}; networks that take float32 images are built here",
        fix="write `dtype: fp32`, or export the network with a float32 input",
        **at(judged.file.document, "frontend", "dtype"),
    )


def _images(judged: _Judged) -> SpecError | None:
    """int8 needs calibration images; where they lie is the spec's business."""
    spec, document = judged.file.spec, judged.file.document
    if not _imported(judged) or spec.backend.dtype not in judged.target.dtypes:
        return None
    fix = "name a folder of images in dataset.path, or write `dataset: {fallback: samples}`"
    if spec.dataset is None:
        return SpecError(
            "int8 needs calibration images, and the spec has no `dataset:`",
            fix=fix,
            **at(document, "dataset"),
        )
    if spec.dataset.type != "tvm":
        return CapabilityError(
            f"data sets of type {spec.dataset.type!r} are not read here",
            fix="write `type: tvm` and name a folder of images in dataset.path",
            **at(document, "dataset", "type"),
        )
    if spec.dataset.path is None and spec.dataset.fallback is None:
        return SpecError("dataset.path is missing", fix=fix, **at(document, "dataset", "path"))
    suffix, kinds = spec.dataset.sampler.suffix, (*SUFFIXES, ".npz")
    if suffix is not None and f".{suffix.removeprefix('.').lower()}" not in kinds:
        return CapabilityError(
            f"files with suffix {suffix!r} are no images of a kind that is read here",
            fix=f"convert them; read are {' '.join(kinds)}",
            **at(document, "dataset", "sampler", "suffix"),
        )
    return None


def _steps(judged: _Judged) -> SpecError | None:
    """Whether process_ops fit one another, and make as many channels as the network takes."""
    spec = judged.file.spec
    if not _imported(judged) or spec.backend.dtype not in judged.target.dtypes or not spec.dataset:
        return None
    place = at(judged.file.document, "dataset", "process_ops")
    try:
        made = channels(spec.dataset.process_ops)
    except ProcessOpError as error:
        return SpecError(error.what, fix=error.fix, **place)
    shapes = list(spec.frontend.shape.values())
    if len(shapes) == 1 and len(shapes[0]) == 4 and shapes[0][1] != made:
        return SpecError(
            f"process_ops make {made} channels, the network takes {shapes[0][1]} (frontend.shape)",
            fix="add or remove a ChannelSplit, or correct frontend.shape: [1, C, H, W]",
            **place,
        )
    return None


def _backend_type(judged: _Judged) -> SpecError | None:
    kind = judged.file.spec.backend.type
    if kind in _BACKENDS:
        return None
    return CapabilityError(
        f"backend type {kind!r} is not built here{did_you_mean(kind, _BACKENDS)}",
        fix="write `type: tvm_vacc`",
        **at(judged.file.document, "backend", "type"),
    )


def _precision(judged: _Judged) -> SpecError | None:
    quantize, target = judged.file.spec.backend.quantize, judged.target
    for key in ("exclude_layers", "skip_conv_layers"):
        if getattr(quantize, key):
            return CapabilityError(
                f"target {target.name} computes every layer in int8; {key} cannot be kept",
                fix=f"remove {key}, or look for the costly layers with `calibrate_mode`",
                **at(judged.file.document, "backend", "quantize", key),
            )
    return None


def appends_softmax(spec: Spec) -> bool:
    """Whether the spec asks for a softmax behind the network."""
    return _head_kind(spec) == SOFTMAX


def softmax_of_bytes(file: SpecFile) -> CapabilityError | None:
    """The refusal of 8-bit output of a network that ends in a softmax, where the spec asks it."""
    if file.spec.backend.output.dtype != "uint8":
        return None
    return CapabilityError(
        "the network ends in a softmax, whose answer is float32; 8-bit output is not defined",
        fix="write `output: {dtype: float32}`",
        **at(file.document, "backend", "output", "dtype"),
    )


def _head_kind(spec: Spec) -> str | None:
    extra = spec.graph.extra_ops if spec.graph else None
    return extra.type if extra else None


def _head(judged: _Judged) -> SpecError | None:
    kind = _head_kind(judged.file.spec)
    if kind is None:
        return None
    if kind == SOFTMAX:
        return softmax_of_bytes(judged.file)
    why = f"is no int8 operator{did_you_mean(kind, [SOFTMAX])}"
    if "nms" in kind.lower():
        why = "selects boxes (non-maximum suppression), which is no int8 operator"
    return CapabilityError(
        f"the head {kind!r} (graph.extra_ops) {why}; it is not built here",
        fix="remove `graph.extra_ops` and apply the head to the network's output on the host",
        **at(judged.file.document, "graph", "extra_ops", "type"),
    )


_JUDGES = (
    _dtype,
    _compile_type,
    _frontend,
    _shape,
    _input_type,
    _images,
    _steps,
    _backend_type,
    _precision,
    _head,
)
