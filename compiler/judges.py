"""What a spec asks, held against what its target and this workbench can do, before any work."""

from __future__ import annotations

from pathlib import Path

from calib.errors import ProcessOpError, WorkbenchError
from calib.images import SUFFIXES, channels
from compiler import yaml_source
from compiler.errors import CapabilityError, FrontendError, SpecError
from compiler.schema import SOFTMAX, Spec
from compiler.spec import SpecFile
from compiler.spec_faults import did_you_mean
from compiler.target import Target

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


def check(file: SpecFile, target: Target) -> tuple[SpecError, ...]:
    """Everything that the spec asks and the target or this workbench cannot do, in file order."""
    found = [judge(file, target) for judge in _JUDGES]
    refusals = [error for error in found if error is not None]
    return tuple(sorted(refusals, key=lambda error: error.line or 0))


def require(file: SpecFile, target: Target) -> None:
    """Raises the first of `check`'s refusals, if any."""
    for error in check(file, target):
        raise error


def _dtype(file: SpecFile, target: Target) -> SpecError | None:
    dtype = file.spec.backend.dtype
    if dtype in target.dtypes:
        return None
    reason = f"target {target.name} builds {', '.join(target.dtypes)} only, not {dtype}"
    if dtype.lower() in target.dtypes:
        reason += did_you_mean(dtype, target.dtypes)
    elif blocked := _first_without_kernel(file.spec, target):
        reason += f"; {blocked}"
    return CapabilityError(
        reason,
        fix="write `dtype: int8` and name calibration images in `dataset:`",
        **file.at("backend", "dtype"),
    )


def _compile_type(file: SpecFile, target: Target) -> SpecError | None:
    """A word in `compile.data_type` that names another type; the vendor's numbers say nothing."""
    path = ("backend", "compile", "data_type")
    value = yaml_source.at(file.document.data, path)
    if not isinstance(value, str) or value.lower() in target.dtypes:
        return None
    return CapabilityError(
        f"target {target.name} builds {', '.join(target.dtypes)} only, "
        f"not {yaml_source.clip(value)}",
        fix="remove data_type; backend.dtype says what is built",
        **file.at(*path),
    )


def _first_without_kernel(spec: Spec, target: Target) -> str:
    """The first operator without a kernel of the spec's dtype, where the checkpoint can be read."""
    from compiler import model  # onnx is slow to import, and most specs never get here
    from compiler.canonical import canonical

    try:
        loaded = model.load(Path(spec.frontend.checkpoint), spec.frontend.shapes)
        graph = canonical(loaded.proto)
    except WorkbenchError:  # whatever is wrong with the file, the dtype is refused all the same
        return ""
    for operator, node in model.operators(graph):
        if spec.backend.dtype not in target.operators.get(operator, []):
            shown = f"{operator} (PixelShuffle)" if operator == "DepthToSpace" else operator
            return f"{shown}, node {node!r}, has no {spec.backend.dtype} kernel there"
    return ""


def _imported(file: SpecFile) -> bool:
    """Whether the network can be read at all; otherwise its input and images do not matter."""
    return file.spec.frontend.type in FRONTENDS


def _frontend(file: SpecFile, _: Target) -> SpecError | None:
    frontend = file.spec.frontend
    if _imported(file):
        return None
    if frontend.type is None:
        return FrontendError(
            f"frontend.type is absent, and the checkpoint {frontend.checkpoint!r} does not tell it",
            fix="export the network to ONNX and write `type: onnx`",
            **file.at("frontend", "checkpoint"),
        )
    known = (*FRONTENDS, *_EXPORT)
    meant = "" if frontend.type in known else did_you_mean(frontend.type, known)
    hint = _EXPORT.get(frontend.type, "correct the word" if meant else "export the network to ONNX")
    place = ("frontend", "type")
    if place not in file.document.lines:
        place = ("frontend", "checkpoint")
    return FrontendError(
        f"frontend {frontend.type!r} is not imported here{meant}",
        fix=hint if meant or frontend.type == "torch" else f"{hint}, then write `type: onnx`",
        **file.at(*place),
    )


def _shape(file: SpecFile, _: Target) -> SpecError | None:
    """One image in: [1, C, H, W]. The integer semantics define nothing else."""
    shapes = file.spec.frontend.shape
    if not _imported(file):
        return None
    place = file.at("frontend", "shape")
    if len(shapes) != 1:
        names = ", ".join(shapes) or "none"
        return CapabilityError(
            f"the network has {len(shapes)} inputs ({names}); networks of one image are built here",
            fix="write shape: {NAME: [1, C, H, W]}",
            **place,
        )
    ((name, dims),) = shapes.items()
    place = file.at("frontend", "shape", name)
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


def _input_type(file: SpecFile, _: Target) -> SpecError | None:
    dtype = file.spec.frontend.dtype
    if not _imported(file) or dtype in _FLOATS:
        return None
    return CapabilityError(
        f"the network's input is {dtype}; networks that take float32 images are built here",
        fix="write `dtype: fp32`, or export the network with a float32 input",
        **file.at("frontend", "dtype"),
    )


def _images(file: SpecFile, target: Target) -> SpecError | None:
    """int8 needs calibration images; where they lie is the spec's business."""
    spec = file.spec
    if not _imported(file) or spec.backend.dtype not in target.dtypes:
        return None
    fix = "name a folder of images in dataset.path, or write `dataset: {fallback: samples}`"
    if spec.dataset is None:
        missing = "int8 needs calibration images, and the spec has no `dataset:`"
        return SpecError(missing, fix=fix, **file.at("dataset"))
    if spec.dataset.type != "tvm":
        return CapabilityError(
            f"data sets of type {spec.dataset.type!r} are not read here",
            fix="write `type: tvm` and name a folder of images in dataset.path",
            **file.at("dataset", "type"),
        )
    if spec.dataset.path is None and spec.dataset.fallback is None:
        return SpecError("dataset.path is missing", fix=fix, **file.at("dataset", "path"))
    suffix, kinds = spec.dataset.sampler.suffix, (*SUFFIXES, ".npz")
    if suffix is not None and f".{suffix.removeprefix('.').lower()}" not in kinds:
        return CapabilityError(
            f"files with suffix {suffix!r} are no images of a kind that is read here",
            fix=f"convert them; read are {' '.join(kinds)}",
            **file.at("dataset", "sampler", "suffix"),
        )
    return None


def _steps(file: SpecFile, target: Target) -> SpecError | None:
    """Whether process_ops fit one another, and make as many channels as the network takes."""
    spec = file.spec
    if not _imported(file) or spec.backend.dtype not in target.dtypes or not spec.dataset:
        return None
    place = file.at("dataset", "process_ops")
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


def _backend_type(file: SpecFile, _: Target) -> SpecError | None:
    kind = file.spec.backend.type
    if kind in _BACKENDS:
        return None
    return CapabilityError(
        f"backend type {kind!r} is not built here{did_you_mean(kind, _BACKENDS)}",
        fix="write `type: tvm_vacc`",
        **file.at("backend", "type"),
    )


def _precision(file: SpecFile, target: Target) -> SpecError | None:
    quantize = file.spec.backend.quantize
    for key in ("exclude_layers", "skip_conv_layers"):
        if getattr(quantize, key):
            return CapabilityError(
                f"target {target.name} computes every layer in int8; {key} cannot be kept",
                fix=f"remove {key}; `wide_layers` lets layers read 16 bits, in two int8 passes",
                **file.at("backend", "quantize", key),
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
        **file.at("backend", "output", "dtype"),
    )


def _head_kind(spec: Spec) -> str | None:
    extra = spec.graph.extra_ops if spec.graph else None
    return extra.type if extra else None


def _head(file: SpecFile, _: Target) -> SpecError | None:
    kind = _head_kind(file.spec)
    if kind is None:
        return None
    if kind == SOFTMAX:
        return softmax_of_bytes(file)
    why = f"is no int8 operator{did_you_mean(kind, [SOFTMAX])}"
    if "nms" in kind.lower():
        why = "selects boxes (non-maximum suppression), which is no int8 operator"
    return CapabilityError(
        f"the head {kind!r} (graph.extra_ops) {why}; it is not built here",
        fix="remove `graph.extra_ops` and apply the head to the network's output on the host",
        **file.at("graph", "extra_ops", "type"),
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
