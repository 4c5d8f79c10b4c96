"""The network as a picture: fused chains from top to bottom, what they read at the side."""

from __future__ import annotations

from compiler import svg
from compiler.floatnet import FloatConv, FloatNetwork
from compiler.network import (
    Activation,
    AnyOp,
    Concat,
    DepthToSpace,
    MaxPool,
    QuantizeInput,
    Residual,
    ResizeNearest,
)

_BOX, _HIGH, _GAP, _LANE = 330, 46, 22, 12
_LETTERS = 46  # that fit a box


def graph(net: FloatNetwork) -> str:
    """A box an operator; a side line is a tensor that is read again further down."""
    made = {net.input: -1} | {op.output: i for i, op in enumerate(net.ops)}
    tops = [46 + i * (_HIGH + _GAP) for i in range(len(net.ops))]
    parts = [svg.text(12, 16, _cut(f"{net.input}, {net.channels[net.input]} channels"))]
    busy: list[int] = []  # the row down to which each side lane is taken
    for i, op in enumerate(net.ops):
        parts += _box(net, op, tops[i])
        for name in dict.fromkeys(op.inputs):
            source = made[name]
            if source == i - 1:
                parts += _arrow(32, 22 if i == 0 else tops[i] - _GAP, tops[i])
            else:
                lane = next((k for k, row in enumerate(busy) if row <= source), len(busy))
                busy[lane : lane + 1] = [i]
                start = 12.0 if source < 0 else tops[source] + _HIGH / 2
                parts.append(_side(start, tops[i] + _HIGH / 2 + 8, lane))
    end = tops[-1] + _HIGH
    parts += _arrow(32, end, end + _GAP)
    parts.append(svg.text(12, end + _GAP + 16, _cut(net.output)))
    width = 12 + _BOX + 16 + _LANE * max(len(busy), 1)
    label = f"{len(net.ops)} operators of {net.name}"
    return svg.figure(width, end + _GAP + 26, parts, label)


def _box(net: FloatNetwork, op: AnyOp, top: float) -> list[str]:
    first, second = _words(net, op)
    kind = "box conv" if isinstance(op, FloatConv) else "box"
    return [
        svg.rect(12, top, _BOX, _HIGH, kind, hint=f"{op.name} makes {op.output}", radius=6),
        svg.text(24, top + 19, _cut(first)),
        svg.text(24, top + 36, _cut(second), kind="soft"),
    ]


def _words(net: FloatNetwork, op: AnyOp) -> tuple[str, str]:
    """What stands in a box: the operator, and what becomes of its result."""
    out = net.channels[op.output]
    end = "float" if op.output in net.float_tensors else "int8"
    match op:
        case FloatConv():
            stride = f" / {op.strides[0]}" if op.strides != (1, 1) else ""
            size = f"{op.kernel[0]}x{op.kernel[1]}{stride}, {net.channels[op.input]} to {out}"
            return f"{op.name}: {size}", ", ".join([*map(_step, op.steps), end])
        case DepthToSpace():
            return f"{op.name}: pixel shuffle by {op.block}", f"{out} channels, {end}"
        case MaxPool():
            return f"{op.name}: max pool {op.kernel[0]}x{op.kernel[1]}", f"{out} channels, {end}"
        case ResizeNearest():
            return f"{op.name}: nearest {op.factors[0]}x{op.factors[1]}", f"{out} channels, {end}"
        case Concat():
            return f"{op.name}: concat of {len(op.inputs)}", f"{out} channels, {end}"
        case _:
            normalizes = isinstance(op, QuantizeInput) and op.normalizes
            first = "normalize and round" if normalizes else "round"
            return f"{op.name}: {first} the input", f"{out} channels, {end}"


def _step(step: Activation | Residual) -> str:
    if isinstance(step, Residual):
        return f"{'-' if step.negative else '+'} {step.tensor}"
    if not step.alpha.any():
        return "ReLU"
    return f"LeakyReLU {step.alpha[0]:.3g}" if step.alpha.size == 1 else "PReLU"


def _arrow(x: float, start: float, end: float) -> list[str]:
    tip = f"M{svg.number(x - 4)} {svg.number(end - 7)}l4 7l4 -7"
    return [svg.line((x, start), (x, end), "axis"), svg.path(tip, "axis")]


def _side(start: float, end: float, lane: int) -> str:
    edge = 12 + _BOX
    out = edge + 12 + lane * _LANE
    down = f"M{edge if start > 20 else 200} {svg.number(start)}H{out}V{svg.number(end)}H{edge}"
    return svg.path(f"{down}m7 -4l-7 4l7 4", "a edge")


def _cut(words: str) -> str:
    return words if len(words) <= _LETTERS else words[: _LETTERS - 1] + "…"
