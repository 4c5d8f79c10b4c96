from __future__ import annotations

import cv2
import numpy as np
import pytest

from calib import bicubic
from calib.images import ChannelSplit, CvtColor, DecodeImage, Normalize, Resize, ToTensor
from compiler import fusion, scaling
from compiler.errors import UnsupportedOperatorError
from compiler.scaling import Scaling
from tests import graphs
from tests.compiler.conftest import photograph

OPS = (DecodeImage(), Resize(size=[8, 8]), Normalize(), ToTensor())


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (graphs.bicubic_plusplus(2), Scaling(2, 2)),
        (graphs.bicubic_plusplus(3), Scaling(3, 2)),
        (graphs.espcn(3), Scaling(3, 1)),
    ],
)
def test_rate_and_grid(graph: graphs.Graph, expected: Scaling) -> None:
    assert scaling.scaling(fusion.fuse(graph.model())) == expected


def test_a_network_that_shrinks_is_refused() -> None:
    g = graphs.Graph(3)
    g.conv(3, strides=(2, 2))
    with pytest.raises(UnsupportedOperatorError, match="whole multiple"):
        scaling.scaling(fusion.fuse(g.model()))


def test_odd_sizes_replicate_the_last_row_and_column() -> None:
    image = photograph(0, 5, 7)
    x = scaling.to_input(OPS, image, Scaling(2, 2))
    assert x.shape == (1, 3, 6, 8)
    np.testing.assert_array_equal(x[0, :, :5, :7], image.transpose(2, 0, 1) / np.float32(255))
    np.testing.assert_array_equal(x[0, :, 5], x[0, :, 4])
    np.testing.assert_array_equal(x[0, :, :, 7], x[0, :, :, 6])
    padded = scaling.pad_frame(image, Scaling(2, 2))
    np.testing.assert_array_equal(padded.transpose(2, 0, 1) / np.float32(255), x[0])


def test_output_is_rounded_half_to_even_and_cropped() -> None:
    y = np.array([0.5, 1.5, 254.5, -3.0, 300.0], np.float32).reshape(1, 1, 1, 5) / 255
    image = scaling.to_uint8(scaling.from_output(y, (1, 4)))
    assert image.shape == (1, 4, 1)
    assert scaling.to_uint8(np.array([0.5, 1.5, 2.5, -1, 256], np.float32)).tolist() == [
        0,
        2,
        2,
        0,
        255,
    ]


def test_reference_and_bicubic_live_in_the_networks_colours() -> None:
    image = photograph(1, 12, 16)
    np.testing.assert_array_equal(scaling.reference(OPS, image), image)
    np.testing.assert_array_equal(scaling.bicubic_upscale(OPS, image, 2), bicubic.upscale(image, 2))
    luma = (DecodeImage(), CvtColor(code="COLOR_RGB2YCrCb"), ChannelSplit(index=0), Normalize())
    expected = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)[..., :1]
    np.testing.assert_array_equal(scaling.reference(luma, image), expected)


def test_the_published_pre_and_post_processing() -> None:
    """Published for Bicubic++: resize, BGR to RGB, CHW, / 255; and back, clipped, not rounded."""
    bgr = photograph(2, 30, 40)
    resized = cv2.cvtColor(cv2.resize(bgr, (64, 36)), cv2.COLOR_BGR2RGB)
    published = (resized.transpose(2, 0, 1).astype(np.float32) / 255.0)[None]
    ours = scaling.vendor_input(OPS, np.ascontiguousarray(bgr[..., ::-1]), (36, 64))
    np.testing.assert_array_equal(ours, published)

    y = np.random.default_rng(0).normal(0.5, 0.5, (1, 3, 4, 5)).astype(np.float32)
    back = np.clip(y.squeeze()[[2, 1, 0]].transpose(1, 2, 0) * 255, 0, 255)
    np.testing.assert_array_equal(scaling.vendor_output(y)[..., ::-1], back)
