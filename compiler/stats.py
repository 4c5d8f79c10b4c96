"""Parameters, multiply-accumulates and FLOPs of a network, layer by layer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from compiler.floatnet import FloatNetwork
from compiler.network import Size, sizes


@dataclass(frozen=True)
class LayerStats:
    """One convolution: output [channels, height, width], parameters, and MACs for one image."""

    name: str
    output: tuple[int, int, int]
    kernel: Size
    params: int
    macs: int


@dataclass(frozen=True)
class NetworkStats:
    """Totals over the layers. FLOPs = 2 x MACs, without the factor that vendor tables apply."""

    layers: tuple[LayerStats, ...]

    @property
    def params(self) -> int:
        """Weights, and biases where a layer has any (one number for all channels is none)."""
        return sum(layer.params for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all convolutions for one image."""
        return sum(layer.macs for layer in self.layers)

    @property
    def flops(self) -> int:
        """Two operations a multiply-accumulate."""
        return 2 * self.macs

    def to_json(self) -> dict[str, Any]:
        """Totals and one object a layer."""
        layers = [asdict(layer) | {"flops": 2 * layer.macs} for layer in self.layers]
        totals = {"params": self.params, "macs": self.macs, "flops": self.flops}
        return totals | {"layers": layers}


def network_stats(net: FloatNetwork, input_size: Size) -> NetworkStats:
    """Counts for an input of [1, C, *input_size].

    Raises:
        SizeError: the network does not fit the size.
    """
    known = sizes(net, input_size)
    layers = []
    for conv in net.convs:
        out, per_group, *kernel = conv.weight.shape
        height, width = known[conv.output]
        layers.append(
            LayerStats(
                conv.name,
                (out, height, width),
                (kernel[0], kernel[1]),
                conv.weight.size + (out if np.ptp(conv.bias) else 0),
                out * height * width * per_group * int(np.prod(kernel)),
            )
        )
    return NetworkStats(tuple(layers))
