"""Padding: that of a node itself, and Pad nodes before convolutions, which become part of those."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx

from compiler.chains import Chains, Padding, Pads, attributes_of, invalid, unsupported
from compiler.network import QuantizeInput, Size


def pad(reader: Chains, node: onnx.NodeProto) -> None:
    """A Pad node: kept for the convolutions that read it.

    Raises:
        UnsupportedOperatorError: not by a constant, not of rows and columns alone, or the output.
    """
    mode = attributes_of(node).get("mode", "constant")
    if mode != "constant":
        raise unsupported(node, f"mode {mode} is not defined, only constant is")
    if node.output[0] == reader.output.name:
        raise unsupported(node, "only convolutions may read what it makes")
    ends = reader.constant(node, 1).astype(int)
    axes = reader.constant(node, 3).astype(int) % 4 if _given(node, 3) else np.arange(4)
    if axes.shape != (len(ends) // 2,) or ends.min() < 0:
        raise unsupported(node, f"its pads {ends.tolist()} are negative, or do not fit its axes")
    around = np.zeros((2, 4), int)
    around[:, axes] = ends.reshape(2, -1)
    if around[:, :2].any():
        raise unsupported(node, "only rows and columns may be padded")
    value = float(reader.constant(node, 2).reshape(())) if _given(node, 2) else 0.0
    (top, left), (bottom, right) = around[:, 2:].tolist()
    source = reader.tensor(node, 0)
    reader.padded[node.output[0]] = Padding(source, (top, left, bottom, right), value)


def _given(node: onnx.NodeProto, index: int) -> bool:
    return len(node.input) > index and bool(node.input[index])


def padding_before(reader: Chains, node: onnx.NodeProto, own: Pads) -> Padding:
    """All padding of a convolution, a Pad node's and its own.

    Raises:
        UnsupportedOperatorError: values other than 0 where only zeros can be inserted.
    """
    before = reader.padded.get(node.input[0])
    if before is None:
        before = Padding(reader.tensor(node, 0))
    top, left, bottom, right = (a + b for a, b in zip(before.pads, own, strict=True))
    padding = replace(before, pads=(top, left, bottom, right))
    if padding.value and any(own):
        raise unsupported(node, f"it pads by zeros what a Pad padded by {padding.value:g}")
    if padding.source == reader.quantized_input:
        _around_the_image(reader, node, padding)
    elif padding.value:
        raise unsupported(node, "a Pad by another number than 0 is defined for the image alone")
    return padding


def _around_the_image(reader: Chains, node: onnx.NodeProto, padding: Padding) -> None:
    if not any(padding.pads):
        return
    first = reader.ops[0]
    assert isinstance(first, QuantizeInput)
    if reader.outside not in (None, padding.value):
        raise unsupported(node, "convolutions of the image pad it by different numbers")
    reader.outside = padding.value
    reader.ops[0] = replace(first, outside=padding.value)


def pads_of(node: onnx.NodeProto, kernel: Size, strides: Size, dil: Size) -> Pads:
    """What `pads` and `auto_pad` of a Conv or MaxPool say.

    Raises:
        UnsupportedOperatorError: pads that are negative or depend on the image size.
    """
    attributes = attributes_of(node)
    auto = attributes.get("auto_pad", "NOTSET")
    if auto == "NOTSET":
        top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
        if min(top, left, bottom, right) < 0:
            raise unsupported(node, "negative padding is not defined")
        return top, left, bottom, right
    if auto == "VALID":
        return 0, 0, 0, 0
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        raise invalid(node, f"its auto_pad {auto!r} is not known")
    if strides != (1, 1):
        raise unsupported(node, f"auto_pad {auto} with strides depends on the image size")
    high, wide = (dil[i] * (kernel[i] - 1) for i in (0, 1))
    low = (high // 2, wide // 2) if auto == "SAME_UPPER" else (high - high // 2, wide - wide // 2)
    return low[0], low[1], high - low[0], wide - low[1]
