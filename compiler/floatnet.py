"""The float network: fused chains conv -> activation -> (+ residual) with float weights.

Where a chain ends is where the integer network rounds, so calibration, recovery and quantization
all work on this value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from calib.qparams import F32
from compiler.network import (
    Concat,
    DepthToSpace,
    MaxPool,
    QuantizeInput,
    Residual,
    ResizeNearest,
    Size,
    Step,
)


@dataclass(frozen=True, eq=False)
class FloatConv:
    """A convolution with its fused epilogue: y = steps(conv(x, weight) + bias)."""

    name: str
    input: str
    output: str
    weight: F32  # [O, I / groups, kh, kw]
    bias: F32  # [O], zeros where the node has none
    strides: Size = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: Size = (1, 1)
    groups: int = 1
    steps: tuple[Step, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """The data input, then the residuals in the order of the steps."""
        return (self.input, *(s.tensor for s in self.steps if isinstance(s, Residual)))


FloatOp = QuantizeInput | FloatConv | DepthToSpace | Concat | MaxPool | ResizeNearest


@dataclass(frozen=True)
class FloatNetwork:
    """Operators in topological order; tensor names are those of the ONNX graph.

    Attributes:
        channels: number of channels of every tensor.
        float_tensors: the graph input, and the output with what only moves towards it: all others
            are quantized to int8.
    """

    name: str
    ops: tuple[FloatOp, ...]
    channels: Mapping[str, int] = field(hash=False)
    input: str
    output: str

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
