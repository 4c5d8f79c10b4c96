"""What the kernels of a convolution share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib.qparams import I32
from compiler.kernels.epilogue import Epilogue
from compiler.kernels.isa import Isa
from compiler.kernels.kernel import Constants
from compiler.kernels.rows import Layout
from compiler.kernels.schedule import Stage
from compiler.network import Conv


@dataclass(frozen=True, eq=False)
class ConvKernel:
    """One conv with its epilogue, for one image size.

    Attributes:
        height, width: of the conv's own output (before a fused pixel shuffle).
        source: layout of its input.
    """

    stage: Stage
    height: int
    width: int
    constants: Constants
    choice: str
    epilogue: Epilogue
    source: Layout

    @property
    def isa(self) -> Isa:
        """The instruction set."""
        return self.epilogue.isa

    @property
    def conv(self) -> Conv:
        """The operator."""
        return self.epilogue.conv


def folded_bias(conv: Conv, zero: int) -> I32:
    """b - zero * sum(w) modulo 2^32, for stored activations whose real zero is `zero`."""
    mass = conv.weight.astype(np.int64).reshape(len(conv.weight), -1).sum(axis=1)
    return wrapped(conv.bias.astype(np.int64) - zero * mass)


def wrapped(values: NDArray[np.int64]) -> I32:
    """int32, modulo 2^32."""
    result: I32 = values.astype(np.uint32).view(np.int32)
    return result
