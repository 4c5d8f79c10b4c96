"""What the float network has in some of its tensors, for one image after another."""

from __future__ import annotations

from collections.abc import Iterable

import onnx.utils

from calib.qparams import F32
from compiler import qdq
from compiler.floatnet import FloatNetwork
from compiler.runner import Session


class FloatValues:
    """Float values of some tensors of a network, in ONNX Runtime.

    Only the part of the graph that they need is computed.
    """

    def __init__(self, net: FloatNetwork, names: Iterable[str], *, threads: int = 1) -> None:
        self._first, self._input, self._names = net.quantize_input, net.input, tuple(names)
        given = (self._first.output, net.input)
        self._computed = [name for name in self._names if name not in given]
        if self._computed:
            whole = onnx.utils.Extractor(qdq.write_float(net))
            part = whole.extract_model([net.input], self._computed)
            self._session = Session(part, threads=threads)

    def of(self, x: F32) -> dict[str, F32]:
        """Tensor name to float32 [C, H, W], of a graph input [1, C, h, w]; in the order asked."""
        values = {self._first.output: self._first.normalized(x[0]), self._input: x[0]}
        if self._computed:
            results = self._session.run_all({self._input: x})
            values |= {n: y[0] for n, y in zip(self._computed, results, strict=True)}
        return {name: values[name] for name in self._names}
