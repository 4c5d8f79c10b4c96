"""The float network: fused chains conv -> activation -> (+ residual) with float weights.

Where a chain ends is where the integer network rounds, so calibration, recovery and quantization
all work on this value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from calib.qparams import F32
from compiler.network import ConvChain, Move, QuantizeInput, unused


@dataclass(frozen=True, eq=False, kw_only=True)
class FloatConv(ConvChain):
    """A convolution with its fused epilogue: y = steps(conv(x, weight) + bias)."""

    weight: F32  # [O, I / groups, kh, kw]
    bias: F32  # [O], zeros where the node has none


FloatOp = QuantizeInput | FloatConv | Move


@dataclass(frozen=True)
class FloatNetwork:
    """Operators in topological order; tensor names are those of the ONNX graph.

    Attributes:
        channels: number of channels of every tensor.
        float_tensors: the graph input, and the output with what only moves towards it: all others
            are quantized to int8.
        softmax: whether the answer is the softmax of `output`; calibration and recovery end before.
    """

    name: str
    ops: tuple[FloatOp, ...]
    channels: Mapping[str, int] = field(hash=False)
    input: str
    output: str
    softmax: bool = False

    @property
    def quantize_input(self) -> QuantizeInput:
        """The first operator."""
        first = self.ops[0]
        assert isinstance(first, QuantizeInput)
        return first

    def outside(self, name: str) -> float:
        """What convolutions that read a tensor see outside the image."""
        first = self.quantize_input
        return first.outside if name == first.output else 0.0

    def unused(self, name: str) -> str:
        """`name`, with underscores behind where an operator or a tensor has it."""
        return unused(name, {*self.channels, *(op.name for op in self.ops)})

    @property
    def convs(self) -> tuple[FloatConv, ...]:
        """The convolutions, in topological order."""
        return tuple(op for op in self.ops if isinstance(op, FloatConv))

    @property
    def float_tensors(self) -> frozenset[str]:
        """The graph input, the output, and what only moves data towards the output."""
        found = {self.output}
        for op in reversed(self.ops):
            if op.output in found and not isinstance(op, FloatConv | QuantizeInput):
                found.update(op.inputs)
        return frozenset(found | {self.input})

    @property
    def rounding_points(self) -> tuple[str, ...]:
        """Tensors that are rounded to int8, each by its own scale, in topological order."""
        makers = (op for op in self.ops if isinstance(op, FloatConv | QuantizeInput))
        return tuple(op.output for op in makers if op.output not in self.float_tensors)
