"""What a kernel is: one operator's loops over a few of its rows, for one instruction set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from compiler.kernels.isa import Expr
from compiler.kernels.rows import Rows
from compiler.kernels.schedule import Stage
from compiler.kernels.stores import Output

Constants = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Context:
    """What a kernel reads and writes while it runs.

    Attributes:
        rows: its input tensors of the network's own layout.
        outside: buffers of the tensors outside the chain: the graph input, and what moves behind
            the last convolutions read.
        output: where it stores.
        constants: its constants, as buffers.
        scratch: what `allocate` returned.
    """

    rows: Mapping[str, Rows]
    outside: Mapping[str, Expr]
    output: Output
    constants: Mapping[str, Expr]
    scratch: Mapping[str, Expr]


class Kernel(Protocol):
    """One operator for one image size and instruction set."""

    @property
    def stage(self) -> Stage:
        """The operator, seen by its rows."""

    @property
    def height(self) -> int:
        """Rows of the stage."""

    @property
    def constants(self) -> Constants:
        """Weights and scales, by name."""

    @property
    def choice(self) -> str:
        """What was chosen and why it is exact, for the build's summary."""

    def allocate(self, rows: int) -> Mapping[str, Expr]:
        """Allocates the scratch buffers for steps of `rows` rows."""

    def emit(self, context: Context, first: Expr, rows: int) -> None:
        """Emits the computation of those of the rows [first, first + rows) inside the image."""
