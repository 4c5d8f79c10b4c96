"""Bicubic++ as an ONNX graph, written node by node from its kernels; needs no PyTorch.

The network (Bilecen and Ayazoglu, "Bicubic++: Slim, Slimmer, Slimmest", CVPR Workshops 2023) halves
the resolution in its first convolution, works there on 32 channels, and shuffles the 3*(2*rate)^2
channels of its last convolution into pixels. `models.network` is the same in PyTorch, to train it.
The project's own weights work on a centred image; the authors' weights do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compiler.errors import ModelError
from compiler.store import atomic, storage

SLOPE = 0.1  # of the three LeakyReLU
CENTRE = 128 / 255
"""What the centred network takes from the image and adds to its output: the bytes 0 to 255 become
-128/255 to 127/255, which symmetric int8 holds without loss. [0, 1] itself would use half of its
levels and cost up to 0.1 dB."""

_CHANNELS = 32
_OPSET = 17
_IR_VERSION = 8  # the version that came with opset 17


def kernel_shapes(rate: int) -> dict[str, tuple[int, int, int, int]]:
    """Shape [O, I, 3, 3] of every kernel by its key in the state dict, in order of execution."""
    return {
        "conv0.weight": (_CHANNELS, 3, 3, 3),
        "conv1.weight": (_CHANNELS, _CHANNELS, 3, 3),
        "conv2.weight": (_CHANNELS, _CHANNELS, 3, 3),
        "conv_out.weight": (3 * (2 * rate) ** 2, _CHANNELS, 3, 3),
    }


def check_state(state: Mapping[str, NDArray[np.float32]], rate: int, where: str = "") -> None:
    """Refuses whatever is not exactly the finite float32 kernels of Bicubic++ at this rate.

    Raises:
        ModelError: a kernel is missing or unknown, or has the wrong shape, type or values.
    """
    shapes = kernel_shapes(rate)
    fix = f"use a checkpoint of Bicubic++ {rate}x"
    if state.keys() != shapes.keys():
        raise ModelError(
            f"expected the tensors {', '.join(shapes)}; got {', '.join(state) or 'none'}",
            where=where,
            fix=fix,
        )
    for name, shape in shapes.items():
        kernel = state[name]
        if kernel.shape != shape or kernel.dtype != np.float32:
            raise ModelError(
                f"{name} is {kernel.dtype} {list(kernel.shape)}, expected float32 {list(shape)}",
                where=where,
                fix=fix,
            )
        if not np.isfinite(kernel).all():
            raise ModelError(f"{name} holds values that are not finite", where=where, fix=fix)


def to_onnx(
    state: Mapping[str, NDArray[np.float32]],
    rate: int,
    description: str = "",
    *,
    centred: bool = False,
) -> onnx.ModelProto:
    """Builds the graph: `input` float32 [1, 3, H, W] in [0, 1] -> `output` [1, 3, r*H, r*W].

    H and W are symbolic; they must be even, or the output is one row or column of 2*r pixels larger
    than r*H or r*W, to be cropped by the caller.

    Args:
        centred: subtract `CENTRE` from the image and add it to the output, as the weights expect.
    Raises:
        ModelError: as `check_state`.
    """
    check_state(state, rate)
    constants = {k: np.ascontiguousarray(state[k]) for k in kernel_shapes(rate)}
    if centred:
        constants["centre"] = np.array(CENTRE, np.float32)
    graph = helper.make_graph(
        _nodes(rate, centred),
        f"bicubic_plusplus_{rate}x",
        [_image("input", "height", "width")],
        [_image("output", "output_height", "output_width")],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
        doc_string=description,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="vacc-workbench",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _nodes(rate: int, centred: bool) -> list[onnx.NodeProto]:
    image, last = ("centred", "restored") if centred else ("input", "conv_out")
    nodes = [
        _conv("conv0", image, stride=2),
        _leaky_relu("act0", "conv0"),
        _conv("conv1", "act0"),
        _leaky_relu("act1", "conv1"),
        _conv("conv2", "act1"),
        _leaky_relu("act2", "conv2"),
        helper.make_node("Add", ["act2", "act0"], ["add"], "add"),
        _conv("conv_out", "add"),
        helper.make_node(
            "DepthToSpace",
            [last],
            ["output"],
            "pixel_shuffle",
            blocksize=2 * rate,
            mode="CRD",
        ),
    ]
    if centred:
        nodes.insert(0, helper.make_node("Sub", ["input", "centre"], ["centred"], "subtract"))
        nodes.insert(-1, helper.make_node("Add", ["conv_out", "centre"], [last], "restore"))
    return nodes


def export_onnx(
    state: Mapping[str, NDArray[np.float32]],
    rate: int,
    path: Path,
    description: str = "",
    *,
    centred: bool = False,
) -> None:
    """Writes `to_onnx`; the same kernels give the same bytes. Never leaves a part of a file.

    Raises:
        ModelError: as `check_state`.
        StorageError: the folder of `path` cannot be written.
    """
    model = to_onnx(state, rate, description, centred=centred)
    content = model.SerializeToString(deterministic=True)
    with atomic(path) as temporary, storage(path):
        temporary.write_bytes(content)


def _conv(name: str, source: str, stride: int = 1) -> onnx.NodeProto:
    return helper.make_node(
        "Conv",
        [source, f"{name}.weight"],
        [name],
        name,
        kernel_shape=[3, 3],
        pads=[1, 1, 1, 1],
        strides=[stride, stride],
    )


def _leaky_relu(name: str, source: str) -> onnx.NodeProto:
    return helper.make_node("LeakyRelu", [source], [name], name, alpha=SLOPE)


def _image(name: str, height: str, width: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, height, width])
