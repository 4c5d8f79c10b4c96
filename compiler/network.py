"""The integer network: what the accelerator computes, as frozen values.

`quantize` makes one from the float graph, `qdq` writes it to and reads it from ONNX, `reference`
evaluates it in NumPy (the golden model) and `lower` turns it into kernels. It has no image size:
sizes follow from the input by `sizes`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from calib import qparams
from calib.qparams import F32, I8, I32, QParams
from compiler.errors import SizeError

Size = tuple[int, int]  # height, width
Kind = Literal["int8", "float32", "uint8"]


@dataclass(frozen=True)
class Tensor:
    """Type of one value: channels, element kind, and scale and zero point where it is int8.

    Layouts seen from outside: float32 is [1, C, H, W], uint8 is [1, H, W, C] (frames as cameras and
    codecs have them); int8 lives inside the network only, [1, C, H, W] in the golden model.
    """

    channels: int
    kind: Kind
    qparams: QParams | None = None

    @property
    def q(self) -> QParams:
        """Scale and zero point of an int8 tensor."""
        assert self.qparams is not None, "only int8 tensors have a scale"
        return self.qparams


@dataclass(frozen=True, eq=False)
class Activation:
    """Epilogue step v = v if v >= 0 else v * alpha[c]: Relu (alpha 0), LeakyReLU, PReLU."""

    alpha: F32  # [1] or [channels]


@dataclass(frozen=True)
class Residual:
    """Epilogue step v = fma(float32(q_r - z_r), R, v), R = s_r / s_y, or -s_r / s_y: v - r."""

    tensor: str
    negative: bool = False


Step = Activation | Residual


@dataclass(frozen=True, eq=False, kw_only=True)
class ConvChain:
    """Geometry of a convolution and its fused epilogue, whatever its weights are made of."""

    name: str
    input: str
    output: str
    weight: NDArray[Any]  # [O, I / groups, kh, kw]
    strides: Size = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right
    dilations: Size = (1, 1)
    groups: int = 1
    steps: tuple[Step, ...] = ()

    @property
    def kernel(self) -> Size:
        """Height and width of the window."""
        return self.weight.shape[2], self.weight.shape[3]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The data input, then the residuals in the order of the steps."""
        return (self.input, *(s.tensor for s in self.steps if isinstance(s, Residual)))


@dataclass(frozen=True, eq=False, kw_only=True)
class Conv(ConvChain):
    """acc = sum((q_x - z_x) * q_w) + b in int32, v = float32(acc) * M[c], steps, then the output.

    The output's `Tensor` decides the end: int8 requantizes with M = s_x * s_w / s_y, float32 stores
    v with s_y = 1, uint8 stores clamp(rne(v)) with 255 in place of 1 / s_y.
    """

    weight: I8  # [O, I / groups, kh, kw] in [-127, 127]
    weight_scale: F32  # [O]
    bias: I32  # [O]


@dataclass(frozen=True, eq=False)
class _OneInput:
    """An operator that reads one tensor."""

    name: str
    input: str
    output: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """The one input."""
        return (self.input,)


@dataclass(frozen=True, eq=False)
class QuantizeInput(_OneInput):
    """The graph input to int8, with the normalization that the network begins with.

    float32: clamp(rne((x - mean[c]) / d[c]) + z), d[c] = std[c] * s (`qparams.quantize_normalized`;
    mean 0 and std 1 is Quantize itself). uint8: `table[c, u]` (int8 [C, 256]).

    Attributes:
        outside: normalized value that convolutions see outside the image, see `recovery.centre`.
    """

    table: I8 | None = None
    mean: F32 = field(default_factory=lambda: np.zeros(1, np.float32))  # [C] or [1]
    std: F32 = field(default_factory=lambda: np.ones(1, np.float32))  # [C] or [1], positive
    outside: float = 0.0

    @property
    def normalizes(self) -> bool:
        """Whether the network begins with a normalization."""
        return bool(self.mean.any() or (self.std != 1).any())

    def normalized(self, x: F32) -> F32:
        """What is rounded, of a graph input x: binary32 [C, H, W]."""
        return qparams.normalize(x, self.mean, self.std) if self.normalizes else x


@dataclass(frozen=True)
class DepthToSpace(_OneInput):
    """PixelShuffle: [C * b * b, H, W] -> [C, H * b, W * b]; ONNX modes CRD and DCR."""

    block: int
    mode: Literal["CRD", "DCR"] = "CRD"


@dataclass(frozen=True)
class Concat:
    """Joins channels of tensors that share one scale."""

    name: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class MaxPool(_OneInput):
    """Maximum over a window; padding never wins."""

    kernel: Size
    strides: Size = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True)
class ResizeNearest(_OneInput):
    """Nearest upscale by whole factors: out[y, x] = in[y // fy, x // fx]."""

    factors: Size


Move = DepthToSpace | Concat | MaxPool | ResizeNearest
Op = QuantizeInput | Conv | Move
AnyOp = QuantizeInput | ConvChain | Move


class Layered(Protocol):
    """A network, integer or float: operators in topological order from one input."""

    @property
    def ops(self) -> Sequence[AnyOp]: ...  # noqa: D102
    @property
    def input(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Network:
    """Operators in topological order; the first is the `QuantizeInput`; one input, one output.

    Attributes:
        output: where the integer network, its library and its trace end.
        softmax: whether the answer is the softmax of that, computed on the host.
    """

    name: str
    ops: tuple[Op, ...]
    tensors: Mapping[str, Tensor] = field(hash=False)
    input: str
    output: str
    softmax: bool = False

    def on_host(self, y: NDArray[Any]) -> NDArray[Any]:
        """The network's answer to what the library gives: its softmax, or that itself."""
        return qparams.softmax(y) if self.softmax else y

    @property
    def logits(self) -> Network:
        """What the library computes: the network without its softmax."""
        return replace(self, softmax=False)

    @property
    def symmetric(self) -> bool:
        """Whether no tensor has a zero point."""
        return all(t.qparams is None or t.qparams.zero_point == 0 for t in self.tensors.values())

    @property
    def quantize_input(self) -> QuantizeInput:
        """The first operator."""
        first = self.ops[0]
        assert isinstance(first, QuantizeInput)
        return first

    def padding(self, name: str) -> int:
        """What convolutions that read an int8 tensor see outside the image."""
        first, q = self.quantize_input, self.tensors[name].q
        if name != first.output:
            return q.zero_point
        return int(qparams.quantize(np.array(first.outside, np.float32), q))

    @property
    def input_tensor(self) -> Tensor:
        """Type of the graph input (float32 or uint8)."""
        return self.tensors[self.input]

    @property
    def output_tensor(self) -> Tensor:
        """Type of the graph output (float32 or uint8)."""
        return self.tensors[self.output]

    @property
    def convs(self) -> tuple[Conv, ...]:
        """The convolutions, in topological order."""
        return tuple(op for op in self.ops if isinstance(op, Conv))


def unused(name: str, taken: Collection[str]) -> str:
    """`name`, with underscores behind where it is taken."""
    while name in taken:
        name += "_"
    return name


def _window(size: Size, kernel: Size, strides: Size, pads: tuple[int, ...], dil: Size) -> Size:
    height, width = (
        (size[i] + pads[i] + pads[i + 2] - dil[i] * (kernel[i] - 1) - 1) // strides[i] + 1
        for i in (0, 1)
    )
    return height, width


def output_size(op: AnyOp, size: Size) -> Size:
    """Height and width of `op`'s output for an input of `size` (all inputs have the same)."""
    match op:
        case ConvChain():
            return _window(size, op.kernel, op.strides, op.pads, op.dilations)
        case MaxPool():
            return _window(size, op.kernel, op.strides, op.pads, (1, 1))
        case DepthToSpace():
            return size[0] * op.block, size[1] * op.block
        case ResizeNearest():
            return size[0] * op.factors[0], size[1] * op.factors[1]
        case QuantizeInput() | Concat():
            return size


def sizes(net: Layered, input_size: Size) -> dict[str, Size]:
    """Height and width of every tensor of `net` for one input size.

    Raises:
        SizeError: an output would be empty, or the operands of a residual or concat differ.
    """
    known: dict[str, Size] = {net.input: input_size}
    for op in net.ops:
        out = output_size(op, known[op.inputs[0]])
        others = op.inputs[1:]
        expected = known[op.inputs[0]] if isinstance(op, Concat) else out
        if min(out) < 1 or any(known[name] != expected for name in others):
            h, w = input_size
            raise SizeError(
                f"an input of {h}x{w} does not fit this network: {op.name} would be "
                f"{out[0]}x{out[1]}"
                + "".join(f", {name} is {known[name][0]}x{known[name][1]}" for name in others),
                where=f"node {op.name}",
                fix="choose a larger image, or one whose sides are multiples of the strides",
            )
        known[op.output] = out
    return known
