"""What is measured is measured on the input that the network takes."""

from __future__ import annotations

from compiler import measured
from tests.networks import bicubic_plusplus


def test_the_input_follows_the_kind_of_the_network() -> None:
    net = bicubic_plusplus(2, input_kind="uint8")
    assert measured.input_for(net, (8, 6)).shape == (1, 8, 6, 3)
    assert measured.input_for(net, (8, 6)).dtype == "uint8"
