"""The element kinds at the ends of an integer network: float32 tensors, or frames of bytes."""

from __future__ import annotations

from dataclasses import replace

from calib.qparams import I8
from compiler.errors import CapabilityError
from compiler.network import Kind, Network, QuantizeInput, Tensor


def with_io(net: Network, input_kind: Kind, output_kind: Kind, table: I8 | None) -> Network:
    """The same network with other element kinds at its ends.

    Args:
        input_kind: float32 ([1, C, H, W], quantized by division) or uint8 ([1, H, W, C], quantized
            through `table`).
        output_kind: float32 or uint8.
        table: int8 [C, 256], Quantize(process_ops(u)) of each byte; needed for a uint8 input only.
    Raises:
        CapabilityError: a uint8 input without a table, or a uint8 output before a softmax.
    """
    if output_kind == "uint8" and net.softmax:
        raise CapabilityError(
            "the network ends in a softmax, whose answer is float32; 8-bit output is not defined",
            where=f"output {net.output}",
            fix="write backend.output.dtype: float32, and give images as float32",
            key="backend.output.dtype",
        )
    if input_kind == "uint8" and table is None:
        raise CapabilityError(
            "a uint8 input needs pre-processing that maps each byte alone; this one mixes channels",
            where=f"input {net.input}",
            fix="write backend.input.dtype: float32, or take CvtColor, ChannelSplit and grey "
            "decoding out of process_ops",
            key="backend.input.dtype",
        )
    tensors = dict(net.tensors)
    for name, tensor in net.tensors.items():
        if tensor.kind != "int8":
            kind = input_kind if name == net.input else output_kind
            tensors[name] = Tensor(tensor.channels, kind)
    lookup = table if input_kind == "uint8" else None
    ops = tuple(
        replace(op, table=lookup) if isinstance(op, QuantizeInput) else op for op in net.ops
    )
    return replace(net, ops=ops, tensors=tensors)
