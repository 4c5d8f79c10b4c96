"""The cost model against the frame rates that the vendor publishes, with the error stated.

The networks are counted in closed form from their published architectures:

* ResNet-50: K. He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, table 1. The
  weights in the vendor's zoo are of the variant with the stride in the 3x3 convolution (4.089 GMAC;
  with the paper's stride in the first 1x1 it is 3.858).
* RCAN: Y. Zhang et al., "Image Super-Resolution Using Very Deep Residual Channel Attention
  Networks", ECCV 2018. The paper's network needs 31.7 TMAC for a 1080p frame: at the published rate
  that is several times the peak of the card, so it is not what the vendor ran. The vendor's model
  zoo describes a reduced one: stride 2 at the head, 3 groups of 2 blocks, 32 channels, no
  attention, one pixel shuffle by 4. Counted here it has the 356.659 "GFLOPs" that the zoo states
  (2 x MACs / 0.9e9, the zoo's convention), so this is the one compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from compiler.cost.model import Cost
from compiler.cost.schedule import estimate
from compiler.cost.workload import Layers, Workload
from compiler.network import Size
from compiler.target import Figure

FULL_HD: Size = (1080, 1920)
RESNET50_BATCH = 8
RESNET50_STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # width of the 3x3, blocks


@dataclass(frozen=True)
class Check:
    """One published rate and the model's answer, images a second on one die.

    Attributes:
        source: where the rate and the architecture come from.
        needed_tops: what the rate takes at the least, 2 operations a multiply-accumulate.
        peak_tops: what the target's die has.
    """

    name: str
    source: str
    macs: int
    published_per_s: float
    layer_by_layer_per_s: float
    fused_per_s: float
    needed_tops: float
    peak_tops: float
    assumed: tuple[str, ...]

    @property
    def layer_by_layer_error(self) -> float:
        """Predicted / published - 1: positive where the model is faster than the hardware."""
        return self.layer_by_layer_per_s / self.published_per_s - 1

    @property
    def fused_error(self) -> float:
        """The same for the fused schedule."""
        return self.fused_per_s / self.published_per_s - 1

    @property
    def possible(self) -> bool:
        """Whether the published rate is within the peak."""
        return self.needed_tops <= self.peak_tops

    def to_json(self) -> dict[str, Any]:
        """All fields and both errors."""
        return asdict(self) | {
            "layer_by_layer_error": self.layer_by_layer_error,
            "fused_error": self.fused_error,
            "possible": self.possible,
        }


def checks(hardware: Mapping[str, Figure]) -> tuple[Check, ...]:
    """The model's answer to every published rate, for one die of the target."""
    resnet = estimate(resnet50(), hardware, "", batch=RESNET50_BATCH)
    reduced, full = (estimate(net, hardware, "") for net in (rcan_vendor(), rcan()))
    return (
        _check("ResNet-50, batch 8", "He et al. 2016", 3231, resnet),
        _check("RCAN of the vendor's zoo", "the zoo's description", 21.6, reduced),
        _check("RCAN of the paper", "Zhang et al. 2018", 21.6, full),
    )


def _check(name: str, source: str, published: float, cost: Cost) -> Check:
    return Check(
        name=name,
        source=source,
        macs=cost.macs,
        published_per_s=published,
        layer_by_layer_per_s=1e3 / cost.layer_by_layer.ms,
        fused_per_s=1e3 / cost.fused.ms,
        needed_tops=2 * cost.macs * published / 1e12,
        peak_tops=2 * cost.die.macs_per_s / 1e12,
        assumed=cost.assumed,
    )


def resnet50(*, stride_in_3x3: bool = True) -> Workload:
    """ResNet-50 on 3x224x224: 53 convolutions and the classifier."""
    net = Layers("resnet50", 3, (224, 224))
    net.conv(64, 7, stride=2)
    net.move("maxpool", (64, 56, 56), before=1, ahead=1)
    for width, blocks in RESNET50_STAGES:
        for block in range(blocks):
            stride = 2 if block == 0 and width > 64 else 1
            start = net.last
            skip = net.conv(4 * width, 1, stride=stride) if block == 0 else start
            net.conv(width, 1, stride=1 if stride_in_3x3 else stride, source=start)
            net.conv(width, 3, stride=stride if stride_in_3x3 else 1)
            net.conv(4 * width, 1, residual=skip)
    net.move("avgpool", (2048, 1, 1), ahead=6)
    net.conv(1000, 1)
    return net.workload()


def rcan(groups: int = 10, blocks: int = 20, channels: int = 64) -> Workload:
    """RCAN 2x on a 1080p frame, as published: channel attention scales each block's residual."""
    net = Layers("rcan", 3, FULL_HD)
    head = net.conv(channels, 3)
    for _ in range(groups):
        start = net.last
        for _ in range(blocks):
            skip = net.last
            net.conv(channels, 3)
            body = net.conv(channels, 3)
            net.move("avgpool", (channels, 1, 1), ahead=FULL_HD[0] - 1)
            net.conv(channels // 16, 1)
            attention = net.conv(channels, 1)
            net.scale(body, attention, skip)
        net.conv(channels, 3, residual=start)
    net.conv(channels, 3, residual=head)
    net.conv(4 * channels, 3)
    net.move("shuffle", (channels, 2 * FULL_HD[0], 2 * FULL_HD[1]))
    net.conv(3, 3)
    return net.workload()


def rcan_vendor() -> Workload:
    """The reduced RCAN 2x of the vendor's zoo on a 1080p frame."""
    groups, blocks, channels = 3, 2, 32
    net = Layers("rcan_reduced", 3, FULL_HD)
    head = net.conv(channels, 3, stride=2)
    for _ in range(groups):
        start = net.last
        for _ in range(blocks):
            skip = net.last
            net.conv(channels, 3)
            net.conv(channels, 3, residual=skip)
        net.conv(channels, 3, residual=start)
    net.conv(channels, 3, residual=head)
    net.conv(16 * channels, 3)
    net.move("shuffle", (channels, 2 * FULL_HD[0], 2 * FULL_HD[1]))
    net.conv(3, 3)
    return net.workload()
