"""The output that a quantized network should have, and how far it is from it.

Both `auto` and `search` choose thresholds by this error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from calib.qparams import F32
from calib.table import CalibrationTable
from compiler import qdq
from compiler.float_values import FloatValues
from compiler.floatnet import FloatNetwork
from compiler.recovery.samples import Samples
from compiler.runner import Session


@dataclass(frozen=True, eq=False)
class Wanted:
    """Samples, and the float network's output for each: float32 [C, h, w]."""

    samples: Samples
    outputs: tuple[F32, ...]

    @classmethod
    def of(cls, net: FloatNetwork, samples: Samples) -> Wanted:
        """What `net` makes of the samples."""
        floats = FloatValues(net, [net.output])
        return cls(samples, tuple(samples.each(lambda _, tile: floats.of(tile)[net.output])))

    def error(self, model: onnx.ModelProto) -> float:
        """Mean squared error of a model's output over all values of all samples.

        The model runs in ONNX Runtime, unoptimized: its Q/DQ nodes round as they stand there.
        """
        session = Session(model, optimize=False)

        def squares(i: int, tile: F32) -> float:
            difference = session.run(tile)[0].astype(np.float64) - self.outputs[i]
            return float((difference**2).sum())

        return sum(self.samples.each(squares)) / sum(wanted.size for wanted in self.outputs)


def unrounded(net: FloatNetwork, table: CalibrationTable) -> onnx.ModelProto:
    """The network with its activations quantized, its weights not."""
    return qdq.write_mixed(net, {name: table[name].qparams for name in net.rounding_points})
