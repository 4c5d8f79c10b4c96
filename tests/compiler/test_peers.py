"""Other quantizers' networks: they run, and are as far from fp32 as int8 is."""

from __future__ import annotations

import numpy as np
import pytest

from compiler import peers
from compiler.errors import HostError
from compiler.runner import Session
from tests import graphs
from tests.quantized import noise

IMAGES = [noise(3, 24, 32, seed=i) for i in range(3)]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("method", ["MinMax", "Percentile"])
def test_onnx_runtime_is_a_peer(method: str, symmetric: bool) -> None:
    fp32 = graphs.bicubic_plusplus(2).model()
    make = peers.quantizers(fp32, IMAGES, symmetric=symmetric)[f"ONNX Runtime, {method}"]
    exact, rounded = Session(fp32).run(IMAGES[0]), make()(IMAGES[0])
    error = np.abs(exact - rounded).max() / np.abs(exact).max()
    assert 0 < error < 0.2


def test_images_of_several_sizes_are_cut_alike() -> None:
    fp32 = graphs.bicubic_plusplus(2).model()
    images = [noise(3, 24, 32), noise(3, 30, 20)]
    make = peers.quantizers(fp32, images, symmetric=True)["ONNX Runtime, Entropy"]
    assert make()(images[1]).shape == (1, 3, 60, 40)


def test_nncf_is_a_peer_in_silence_or_tells_how_to_get_it(
    capfd: pytest.CaptureFixture[str],
) -> None:
    fp32 = graphs.bicubic_plusplus(2).model()
    try:
        run = peers.nncf_int8(fp32, IMAGES, "mixed")
    except HostError as error:
        assert "peers" in error.fix  # noqa: PT017 - both outcomes are right
        return
    assert "Statistics" not in "".join(capfd.readouterr())  # its progress bars
    exact, rounded = Session(fp32).run(IMAGES[0]), run(IMAGES[0])
    assert 0 < np.abs(exact - rounded).max() < 0.3 * np.abs(exact).max()
