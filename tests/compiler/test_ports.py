"""compiler.ports: frames of bytes at the ends of a network, and what they need."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from compiler.errors import CapabilityError
from compiler.network import Tensor
from compiler.ports import with_io
from tests.networks import bicubic_plusplus


def test_with_io_changes_the_ends_alone() -> None:
    net = bicubic_plusplus(2)
    table = np.arange(768).reshape(3, 256).astype(np.int8)
    frames = with_io(net, "uint8", "uint8", table)
    assert frames.input_tensor == Tensor(3, "uint8")
    assert frames.output_tensor == Tensor(3, "uint8")
    assert frames.tensors["t4"] == Tensor(48, "uint8")  # what only moves towards the output
    assert frames.ops[0].table is table
    assert frames.ops[1:] == net.ops[1:]
    inner = {n: t for n, t in net.tensors.items() if t.kind == "int8"}
    assert inner == {n: t for n, t in frames.tensors.items() if t.kind == "int8"}
    assert net.input_tensor.kind == "float32", "the original is untouched"

    back = with_io(frames, "float32", "float32", table)
    assert back.ops[0].table is None
    assert back.tensors == net.tensors
    assert replace(back, ops=()) == replace(net, ops=())


def test_a_uint8_input_needs_a_table() -> None:
    with pytest.raises(CapabilityError, match="each byte alone") as caught:
        with_io(bicubic_plusplus(2), "uint8", "float32", None)
    assert caught.value.key == "backend.input.dtype"
    assert caught.value.fix
