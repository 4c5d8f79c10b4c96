"""Cross-layer equalization: channel scales that even out what 8 bits cost each channel.

(M. Nagel et al., "Data-free quantization through weight equalization and bias correction", 2019,
scale ranges pairwise; here whole groups of tensors are scaled, and by error instead of range.)

Relu, LeakyReLU and PReLU are positively homogeneous, so that multiplying channel c of a tensor by
t_c > 0 and the weights that read it by 1 / t_c changes nothing in exact arithmetic. Tensors that a
residual, a Concat or data movement joins share the scales of the channels they share; the graph
input and what reaches the output unscaled have t_c = 1.

Which t to take is chosen in `scales`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from calib.qparams import F32
from compiler.floatnet import FloatConv, FloatNetwork

Factors = Mapping[str, F32]
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, eq=False)
class Equalization:
    """Scales of every tensor's channels and what they promise.

    Attributes:
        factors: tensor to t, binary32 [channels].
        strength: the exponent of the first t, 0 to 1, from which the last were found.
        errors: predicted mean squared output error by strength.
        error: that of `factors`.
    """

    factors: Factors
    strength: float
    errors: Mapping[float, float]
    error: float

    def describe(self) -> str:
        """One line for the terminal."""
        before, start = self.errors[STRENGTHS[0]], self.errors[self.strength]
        return (
            f"equalization: predicted squared output error {before:.3g} -> {start:.3g} at strength "
            f"{self.strength:g} -> {self.error:.3g}"
        )


NONE = Equalization({}, 0.0, {}, 0.0)
"""No equalization: every scale is 1."""


def to_json(equalization: Equalization) -> str:
    """The channel scales for a bundle; binary32 values that round-trip, names sorted."""
    factors = {n: [float(t) for t in v] for n, v in sorted(equalization.factors.items())}
    return json.dumps({"strength": equalization.strength, "factors": factors}, indent=1) + "\n"


def from_json(text: str) -> Factors:
    """The factors of `to_json`."""
    factors = json.loads(text)["factors"]
    return {n: np.array(v, np.float32) for n, v in factors.items()}


def dump(equalization: Equalization) -> bytes:
    """An equalization as the bytes of an npz file; the same one, the same bytes."""
    names = sorted(equalization.factors)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        names=np.array(names, np.str_),
        channels=np.array([len(equalization.factors[n]) for n in names], np.int64),
        factors=np.concatenate([equalization.factors[n] for n in names]),
        strength=np.array(equalization.strength),
        errors=np.array(sorted(equalization.errors.items())),
        error=np.array(equalization.error),
    )
    return buffer.getvalue()


def load(data: bytes) -> Equalization:
    """Inverse of `dump`."""
    with np.load(io.BytesIO(data)) as npz:
        parts = np.split(npz["factors"], np.cumsum(npz["channels"])[:-1])
        factors = {str(n): part for n, part in zip(npz["names"], parts, strict=True)}
        errors = {float(a): float(e) for a, e in npz["errors"]}
        return Equalization(factors, float(npz["strength"]), errors, float(npz["error"]))


def equalize(net: FloatNetwork, factors: Factors) -> FloatNetwork:
    """The same function with channel c of every tensor multiplied by factors[tensor][c].

    Equal to about 1e-6 relative in binary32. Tensors without an entry stay as they are.
    """

    def of(name: str) -> F32:
        return factors.get(name, np.ones(net.channels[name], np.float32))

    def scaled(op: FloatConv) -> FloatConv:
        out, groups = of(op.output), op.groups
        read = of(op.input).reshape(groups, 1, -1).repeat(len(out) // groups, axis=1)
        read = read.reshape(len(out), -1, 1, 1)
        weight = op.weight * (out[:, None, None, None] / read)
        return replace(op, weight=weight.astype(np.float32), bias=op.bias * out)

    ops = tuple(scaled(op) if isinstance(op, FloatConv) else op for op in net.ops)
    return replace(net, ops=ops)
