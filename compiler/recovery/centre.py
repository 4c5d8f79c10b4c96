"""An 8-bit image without loss on a target whose activations have no zero point.

Symmetric int8 has 127 steps above zero, so that of the 256 values from 0 to 1 two each share a
step: the first rounding loses one bit of every pixel. Where m is what a byte of 128 becomes,

    x' = x - m

takes values -128 to 127 steps, all of them integers of int8. The convolutions that read the image
make up for it: bias' = bias + m sum(W), and the padding, which stood for x = 0, holds -m. That
stands in the QDQ file as a Pad node. It costs nothing: padding is written either way.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from calib.qparams import F32
from calib.table import is_lossless
from compiler.floatnet import FloatConv, FloatNetwork
from compiler.network import QuantizeInput


def centred(net: FloatNetwork, values: F32 | None, *, symmetric: bool) -> FloatNetwork:
    """The same function, 8-bit images being integers of its first int8 tensor where that can be.

    Unchanged where they are so already, where no shift makes them so (the channels are normalized
    differently), and where anything but convolutions reads the image.

    Args:
        values: what pre-processing makes of every byte (`calib.images.byte_values`), binary32
            [C, 256]; None where pixels are not bytes.
    """
    if values is None or not _convolved_alone(net):
        return net
    first = net.quantize_input
    seen = first.normalized(values)
    shift = float(seen[0, 128])
    moved = replace(first, mean=_moved(first, shift), outside=first.outside - shift)
    if is_lossless(seen, symmetric) or not is_lossless(moved.normalized(values), symmetric):
        return net

    def reading(conv: FloatConv) -> FloatConv:
        weights = conv.weight.astype(np.float64).sum(axis=(1, 2, 3))
        return replace(conv, bias=(conv.bias + shift * weights).astype(np.float32))

    ops = tuple(
        reading(op) if isinstance(op, FloatConv) and op.input == first.output else op
        for op in net.ops[1:]
    )
    return replace(net, ops=(moved, *ops))


def _convolved_alone(net: FloatNetwork) -> bool:
    image = net.quantize_input.output
    convs = {op.output for op in net.convs}
    added = {name for conv in net.convs for name in conv.inputs[1:]}
    moved = {name for op in net.ops if op.output not in convs for name in op.inputs}
    return image not in added | moved | {net.output}


def _moved(first: QuantizeInput, shift: float) -> F32:
    mean = first.mean.astype(np.float64) + shift * first.std.astype(np.float64)
    return mean.astype(np.float32)
