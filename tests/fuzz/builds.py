"""Hostile networks that the loader accepts, taken on: simplified, quantized, lowered, compiled."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from calib.errors import WorkbenchError
from compiler import model, reference, simplify, stages
from compiler.host import Host
from compiler.library import compile_module
from compiler.lower import lower
from tests.fuzz import models
from tests.fuzz.models import shape_of, shorter, vacc
from tests.quantized import integer_network, noise

__all__ = ["MEMORY_BYTES", "NAME", "SECONDS", "SUFFIX", "judge", "make", "shorter"]

NAME = "build"
SUFFIX = ".onnx"
MEMORY_BYTES = 8 << 30
SECONDS = 120.0
_HOST = Host("portable", 1)
_TRIES = 200


def make(rng: random.Random) -> bytes:
    """One changed network that `model.load` accepts."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"case{SUFFIX}")
        for _ in range(_TRIES):
            data = models.make(rng)
            path.write_bytes(data)
            try:
                model.load(path, shape_of(data))
            except WorkbenchError:
                continue
            return data
    raise AssertionError(f"none of {_TRIES} networks is accepted")


def judge(data: bytes, folder: Path) -> str:
    """The stages of a build on noise, as far as they take it; one in eight is compiled."""
    path = folder / f"case{SUFFIX}"
    path.write_bytes(data)
    loaded = model.load(path, shape_of(data))
    simplified = simplify.simplify(loaded)
    stages.require_operators(simplified.proto, vacc())
    floats, net = integer_network(simplified.proto)
    (dims,) = shape_of(data).values()
    reference.run(net, noise(floats.channels[floats.input], *dims[2:]))
    lowered = lower(net, (dims[2], dims[3]), _HOST)
    if len(data) % 8:
        return "lowered"
    compile_module(lowered, _HOST)  # not linked: the guard lets no program run
    return "compiled"
