"""A network of two layers for the self test: small enough to compile in about a second."""

from __future__ import annotations

from typing import Final

import numpy as np

from calib.qparams import F32, QParams
from compiler.network import Activation, Conv, Network, QuantizeInput, Size, Tensor

SIZE: Final[Size] = (16, 24)
_CHANNELS = 8


def network() -> Network:
    """A 3x3 convolution with LeakyReLU, and one to a float32 output; seeded weights."""
    rng = np.random.default_rng(0)

    def conv(name: str, source: str, into: int, out: int, *, last: bool) -> Conv:
        return Conv(
            name=name,
            input=source,
            output=name,
            weight=rng.integers(-127, 128, (out, into, 3, 3), np.int8),
            weight_scale=rng.uniform(0.001, 0.002, out).astype(np.float32),
            bias=rng.integers(-1000, 1000, out, np.int32),
            pads=(1, 1, 1, 1),
            steps=() if last else (Activation(np.array([0.1], np.float32)),),
        )

    return Network(
        name="selftest",
        ops=(
            QuantizeInput("quantize", "input", "q"),
            conv("first", "q", 3, _CHANNELS, last=False),
            conv("second", "first", _CHANNELS, 3, last=True),
        ),
        tensors={
            "input": Tensor(3, "float32"),
            "q": Tensor(3, "int8", QParams(1 / 127)),
            "first": Tensor(_CHANNELS, "int8", QParams(0.02)),
            "second": Tensor(3, "float32"),
        },
        input="input",
        output="second",
    )


def network_input() -> F32:
    """Seeded float32 [1, 3, *SIZE] in [0, 1)."""
    return np.random.default_rng(1).random((1, 3, *SIZE), dtype=np.float32)
