"""A network as an accelerator sees it: operators, multiply-accumulates, and bytes between them.

Knows nothing of hardware; `compiler.cost.model` turns it into time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from compiler.floatnet import FloatNetwork
from compiler.network import AnyOp, ConvChain, Kind, MaxPool, Size, sizes

ELEMENT_BYTES: Mapping[Kind, int] = {"int8": 1, "uint8": 1, "float32": 4}
CHANNEL_BYTES = 8  # of each output channel: an int32 bias and a float32 multiplier


@dataclass(frozen=True)
class Feature:
    """One tensor of one image.

    Attributes:
        bytes: of the whole tensor.
        rows: its height.
    """

    bytes: int
    rows: int


@dataclass(frozen=True)
class Work:
    """One operator on one image.

    Attributes:
        inputs: tensors read: the data input first, then residuals or further operands.
        weight_bytes: int8 weights, int32 biases and float32 multipliers.
        before, ahead: rows of the first input that an output row needs above and below its own.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    macs: int = 0
    weight_bytes: int = 0
    before: int = 0
    ahead: int = 0


@dataclass(frozen=True)
class Workload:
    """Operators in topological order and the tensors between them."""

    name: str
    works: tuple[Work, ...]
    features: Mapping[str, Feature] = field(hash=False)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return sum(work.macs for work in self.works)

    @property
    def output(self) -> str:
        """The last operator's output."""
        return self.works[-1].output


def workload(
    net: FloatNetwork,
    input_size: Size,
    *,
    input_kind: Kind = "float32",
    output_kind: Kind = "float32",
) -> Workload:
    """The integer form of a float network for one image [1, C, *input_size].

    Between the operators tensors are int8; the graph's ends have the given kinds.

    Raises:
        SizeError: the network does not fit the size.
    """
    known = sizes(net, input_size)
    floats = net.float_tensors
    features = {}
    for name, (height, width) in known.items():
        kind: Kind = "int8"
        if name in floats:
            kind = input_kind if name == net.input else output_kind
        count = net.channels[name] * height * width
        features[name] = Feature(count * ELEMENT_BYTES[kind], height)
    works = tuple(_work(op, known[op.output]) for op in net.ops)
    return Workload(net.name, works, features)


def _work(op: AnyOp, size: Size) -> Work:
    """What an operator multiplies and reads for an output of `size`."""
    if isinstance(op, ConvChain):
        extent = (op.kernel[0] - 1) * op.dilations[0]
        before = min(op.pads[0], extent)
        return Work(
            op.name,
            op.inputs,
            op.output,
            macs=int(op.weight.size) * size[0] * size[1],
            weight_bytes=int(op.weight.size) + CHANNEL_BYTES * len(op.weight),
            before=before,
            ahead=extent - before,
        )
    if isinstance(op, MaxPool):
        before = op.pads[0]
        ahead = op.kernel[0] - 1 - before
        return Work(op.name, op.inputs, op.output, before=before, ahead=ahead)
    return Work(op.name, op.inputs, op.output)


class Layers:
    """Builds a workload from the closed form of a published architecture, layer after layer.

    All tensors are int8; convolutions are padded to keep the size, divided by the stride.
    """

    def __init__(self, name: str, channels: int, size: Size) -> None:
        self.name = name
        self.works: list[Work] = []
        self.shapes: dict[str, tuple[int, int, int]] = {"input": (channels, *size)}
        self.last = "input"

    def conv(
        self,
        out: int,
        kernel: int,
        *,
        stride: int = 1,
        source: str | None = None,
        residual: str | None = None,
    ) -> str:
        """A convolution, with an activation or a residual in its epilogue."""
        source = source or self.last
        channels, height, width = self.shapes[source]
        shape = (out, -(-height // stride), -(-width // stride))
        weights, half = out * channels * kernel**2, (kernel - 1) // 2
        inputs = (source,) if residual is None else (source, residual)
        return self._add(
            Work(
                f"conv{len(self.works)}",
                inputs,
                f"t{len(self.works)}",
                macs=weights * shape[1] * shape[2],
                weight_bytes=weights + CHANNEL_BYTES * out,
                before=half,
                ahead=kernel - 1 - half,
            ),
            shape,
        )

    def move(
        self, name: str, shape: tuple[int, int, int], *, before: int = 0, ahead: int = 0
    ) -> str:
        """Data movement to `shape`: a pixel shuffle, a pooling."""
        output = f"t{len(self.works)}"
        label = f"{name}{len(self.works)}"
        work = Work(label, (self.last,), output, before=before, ahead=ahead)
        return self._add(work, shape)

    def scale(self, data: str, factors: str, residual: str) -> str:
        """data * factors[c] + residual, element by element."""
        output, shape = f"t{len(self.works)}", self.shapes[data]
        work = Work(f"scale{len(self.works)}", (data, factors, residual), output)
        return self._add(work, shape)

    def _add(self, work: Work, shape: tuple[int, int, int]) -> str:
        self.works.append(work)
        self.shapes[work.output] = shape
        self.last = work.output
        return work.output

    def workload(self) -> Workload:
        """What was built."""
        features = {n: Feature(int(np.prod(s)), s[1]) for n, s in self.shapes.items()}
        return Workload(self.name, tuple(self.works), features)
