"""compiler.stats against the published figures and counts by hand."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from compiler.errors import SizeError
from compiler.fusion import fuse
from compiler.stats import LayerStats, network_stats
from tests.graphs import Graph, bicubic_plusplus, branches, espcn

MODELS = Path(__file__).parents[2] / "models"
FULL_HD = (1080, 1920)


@pytest.mark.parametrize(
    ("rate", "params", "macs"), [(3, 50_400, 26_127_360_000), (2, 33_120, 17_169_408_000)]
)
def test_the_figures_of_bicubic_plusplus(rate: int, params: int, macs: int) -> None:
    net = fuse(onnx.load(MODELS / f"bicubic_plusplus_{rate}x.onnx"))
    stats = network_stats(net, FULL_HD)
    assert stats.params == params
    assert stats.macs == macs
    assert stats.flops == 2 * macs
    assert macs == 540 * 960 * params, "every weight acts once a pixel of half size"
    assert [layer.output for layer in stats.layers] == [
        (32, 540, 960),
        (32, 540, 960),
        (32, 540, 960),
        (3 * (2 * rate) ** 2, 540, 960),
    ]


def test_layers_by_hand() -> None:
    g = Graph(4)
    g.conv(6, (3, 5), groups=2, bias=True, strides=(2, 1), name="grouped")
    g.prelu()
    g.conv(5, 1, name="pointwise")
    assert network_stats(fuse(g.model()), (9, 7)).layers == (
        LayerStats("grouped", (6, 5, 7), (3, 5), 6 * 2 * 15 + 6, 6 * 5 * 7 * 2 * 15),
        LayerStats("pointwise", (5, 5, 7), (1, 1), 5 * 6, 5 * 5 * 7 * 6),
    )


def test_sizes_follow_pools_and_upscales() -> None:
    layers = network_stats(fuse(branches().model()), (8, 12)).layers
    assert [layer.output[1:] for layer in layers] == [(8, 12), (4, 6), (8, 12), (8, 12)]


def test_macs_grow_with_the_area_and_parameters_do_not() -> None:
    net = fuse(espcn().model())
    small, large = network_stats(net, (8, 8)), network_stats(net, (80, 16))
    assert large.macs == 20 * small.macs
    assert large.params == small.params


def test_a_size_that_does_not_fit_is_refused() -> None:
    with pytest.raises(SizeError):
        network_stats(fuse(bicubic_plusplus().model()), (0, 8))
