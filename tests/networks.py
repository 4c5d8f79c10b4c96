"""Integer networks built by hand, with random weights and scales, for tests and timings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from calib.qparams import QParams
from compiler.network import (
    Activation,
    Conv,
    DepthToSpace,
    Kind,
    Network,
    Op,
    QuantizeInput,
    Residual,
    Step,
    Tensor,
)
from compiler.ports import with_io

LEAKY = Activation(np.array([0.1], np.float32))
RELU = Activation(np.array([0.0], np.float32))


class Builder:
    """Adds operators to a network one after another; every method returns the output's name."""

    def __init__(self, channels: int, seed: int = 0, *, asymmetric: bool = False) -> None:
        self.rng = np.random.default_rng(seed)
        self.asymmetric = asymmetric
        self.tensors: dict[str, Tensor] = {"input": Tensor(channels, "float32")}
        self.ops: list[Op] = []
        self.last = self._emit(QuantizeInput("quantize", "input", "x"), "x", channels)

    def _emit(self, op: Op, name: str, channels: int, q: QParams | None = None) -> str:
        self.tensors[name] = Tensor(channels, "int8", q or self.qparams())
        self.ops.append(op)
        self.last = name
        return name

    def qparams(self) -> QParams:
        zero = int(self.rng.integers(-128, 128)) if self.asymmetric else 0
        return QParams(float(self.rng.uniform(0.005, 0.02)), zero)

    def conv(
        self,
        out: int,
        kernel: int | tuple[int, int] = 3,
        *,
        source: str | None = None,
        steps: tuple[Step, ...] = (),
        weight: np.ndarray | None = None,
        bias: np.ndarray | None = None,
        groups: int = 1,
        pads: object = None,
        strides: tuple[int, int] = (1, 1),
        dilations: tuple[int, int] = (1, 1),
    ) -> str:
        source = source or self.last
        kh, kw = (kernel, kernel) if isinstance(kernel, int) else kernel
        fan = self.tensors[source].channels // groups
        if weight is None:
            weight = self.rng.integers(-127, 128, (out, fan, kh, kw)).astype(np.int8)
        if bias is None:
            bias = self.rng.integers(-5000, 5000, out).astype(np.int32)
        if pads is None:
            pads = ((kh - 1) // 2 * dilations[0], (kw - 1) // 2 * dilations[1]) * 2
        name = f"t{len(self.ops)}"
        # accumulators of random data spread over the output's range, and beyond it
        spread = 74.0 * 73.0 * np.sqrt(fan * kh * kw)
        scale = self.rng.uniform(0.5, 1.5, out) * 80.0 / spread
        op = Conv(
            name=f"conv{len(self.ops)}",
            input=source,
            output=name,
            weight=weight,
            weight_scale=scale.astype(np.float32),
            bias=bias,
            strides=strides,
            pads=tuple(pads),
            dilations=dilations,
            groups=groups,
            steps=steps,
        )
        q = QParams(self.tensors[source].q.scale, self.qparams().zero_point)
        return self._emit(op, name, out, q)

    def add(self, op: Op, channels: int, q: QParams) -> str:
        return self._emit(op, op.output, channels, q)

    def depth_to_space(self, block: int, mode: str = "CRD") -> str:
        source = self.tensors[self.last]
        name = f"t{len(self.ops)}"
        op = DepthToSpace(f"shuffle{len(self.ops)}", self.last, name, block, mode)
        return self._emit(op, name, source.channels // block**2, source.q)

    def network(self, output: Kind = "float32", input_kind: Kind = "float32") -> Network:
        """The network; its last conv (and the pixel shuffle behind it) gives the output."""
        tensors = dict(self.tensors)
        name = self.last
        for op in reversed(self.ops):
            if op.output == name:
                tensors[name] = Tensor(tensors[name].channels, output)
                name = op.inputs[0] if isinstance(op, DepthToSpace) else ""
        net = Network("test", tuple(self.ops), tensors, "input", self.last)
        table = self.rng.integers(-128, 128, (tensors["input"].channels, 256)).astype(np.int8)
        return with_io(net, input_kind, output, table)


def bicubic_plusplus(
    rate: int,
    seed: int = 0,
    *,
    asymmetric: bool = False,
    output: Kind = "float32",
    input_kind: Kind = "float32",
) -> Network:
    """Bicubic++ of random weights: 3 -> 32 at half size, two 32 -> 32, 3 (2 rate)^2, shuffle."""
    b = Builder(3, seed, asymmetric=asymmetric)
    x0 = b.conv(32, strides=(2, 2), steps=(LEAKY,))
    b.conv(32, steps=(LEAKY,))
    b.conv(32, steps=(LEAKY, Residual(x0)))
    b.conv(3 * (2 * rate) ** 2)
    b.depth_to_space(2 * rate)
    return b.network(output, input_kind)


def sixteen_bits(*, asymmetric: bool = False, read: bool = False) -> Network:
    """A convolution with its low part, both added to a later one; all channels saturate at times.

    Args:
        read: whether a convolution reads the low part, too.
    """
    b = Builder(3, 7, asymmetric=asymmetric)
    high = b.conv(20, strides=(2, 2), steps=(LEAKY,))
    conv = b.ops[-1]
    assert isinstance(conv, Conv)
    q = QParams(b.tensors[high].q.scale / 254, b.qparams().zero_point // 2)
    low = replace(conv, name="conv2", output="t2", steps=(LEAKY, Residual(high, negative=True)))
    b.add(low, 20, q)
    b.conv(16, source=high, steps=(LEAKY,))
    b.conv(20, steps=(LEAKY, Residual(high), Residual("t2")))
    last = b.last
    steps = (Residual(b.conv(12, source="t2")),) if read else ()
    b.conv(12, source=last, steps=steps)
    return b.network()


def espcn(rate: int = 3, seed: int = 0, output: Kind = "float32") -> Network:
    """ESPCN of random weights: 5x5 1 -> 64, 3x3 64 -> 64 -> 32 -> rate^2, ReLU, shuffle."""
    b = Builder(1, seed)
    b.conv(64, 5, steps=(RELU,))
    b.conv(64, steps=(RELU,))
    b.conv(32, steps=(RELU,))
    b.conv(rate**2)
    b.depth_to_space(rate)
    return b.network(output)
