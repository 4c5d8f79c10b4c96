"""Golden vectors: a small input and its exact answers, so that any implementation can check itself.

golden/input.npy            float32 [1, C, 48, 64], values in [0, 1]
golden/quantized_input.npy  int8 [C, 48, 64], what the first operator sees
golden/output.npy           float32 [C, 48 r, 64 r], the answer with a float32 output
golden/output_uint8.npy     uint8 [1, 48 r, 64 r, C], the answer with a uint8 output
                            (none of a network that ends in a softmax; the others end before it)
golden/main.json            digest of the answer at the size of mod.so, to the input tiled to it
golden/README.md            the same in words
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler import reference, store
from compiler.engine import Engine
from compiler.errors import BundleError, NotBitExactError
from compiler.network import Network, Size

Array = NDArray[Any]
SIZE = (48, 64)
_MAIN = "main.json"
_README = """\
# Golden vectors

Computed by the golden model (compiler/reference.py). Any implementation of qdq.onnx under the
integer semantics of the workbench (docs/semantics.md) gives these very bytes. The network has C
input channels, K output channels, and scales by r.

| file | holds |
|---|---|
| input.npy | float32 [1, C, 48, 64] in [0, 1] |
| quantized_input.npy | int8 [C, 48, 64]: the input after Quantize |
| output.npy | float32 [K, 48 r, 64 r]: float32(accumulator) * m |
| output_uint8.npy | uint8 [1, 48 r, 64 r, K]: the same network with a uint8 output |
| main.json | sha256 of what mod.so answers (little-endian, C order) |

The input of main.json is input.npy repeated downwards and to the right, cut to `input_shape`; where
that is uint8, it is rne(255 x) with the channels last.
"""
_SOFTMAX = """\

This network ends in a softmax, which the host computes: the vectors end before it, and there is no
output_uint8.npy.
"""


def small_input(channels: int) -> NDArray[np.float32]:
    """Seeded noise over a ramp, float32 [1, C, 48, 64] in [0, 1]."""
    height, width = SIZE
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, width, dtype=np.float32)
    noise = rng.random((1, channels, height, width), dtype=np.float32)
    mixed: NDArray[np.float32] = (ramp + noise) / np.float32(2)
    return mixed


def main_input(small: Array, net: Network, size: Size) -> Array:
    """`small` repeated to `size`, of the element type and layout that `net` takes."""
    repeats = [-(-side // period) for side, period in zip(size, small.shape[2:], strict=True)]
    x: Array = np.tile(small, (1, 1, *repeats))[:, :, : size[0], : size[1]]
    if net.input_tensor.kind == "uint8":
        x = np.rint(x.transpose(0, 2, 3, 1) * np.float32(255)).astype(np.uint8)
    return np.ascontiguousarray(x)


def write(folder: Path, engine: Engine) -> None:
    """Fills `folder` with the vectors of an engine whose library equals the golden model."""
    folder.mkdir()
    net = engine.net
    x = small_input(net.input_tensor.channels)
    np.save(folder / "input.npy", x)
    for name, value in reference.trace(net, x):
        if name in (net.ops[0].output, net.output):
            label = "output" if name == net.output else "quantized_input"
            np.save(folder / f"{label}.npy", value)
    if not net.softmax:
        frames = engine.variant("float32", "uint8")
        np.save(folder / "output_uint8.npy", reference.run(frames, x))
    main = store.json_text(_main_vector(engine, x))
    (folder / _MAIN).write_text(main, encoding="utf-8")
    readme = _README + (_SOFTMAX if net.softmax else "")
    (folder / "README.md").write_text(readme, encoding="utf-8")


def check(folder: Path, engine: Engine) -> int:
    """Number of values compared: the golden model and the compiled library against the vectors.

    Compiles nothing: the library is asked at its own size.

    Raises:
        BundleError: a vector is missing or cannot be read.
        NotBitExactError: a value differs.
    """
    try:
        x, small = (np.load(folder / f"{n}.npy", allow_pickle=False) for n in ("input", "output"))
        expected = json.loads((folder / _MAIN).read_text(encoding="utf-8"))
        right = x.dtype == np.float32 and x.shape == (1, engine.net.input_tensor.channels, *SIZE)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise _damaged(folder, str(error)) from error
    if not right:
        raise _damaged(folder, f"input.npy is {x.dtype} {list(x.shape)}")
    if not np.array_equal(reference.run(engine.net.logits, x)[0], small):
        raise _different(folder / "output.npy", "the golden model of qdq.onnx")
    found = _main_vector(engine, x)
    if found != expected:
        raise _different(folder / _MAIN, f"the {engine.host.isa} library on this processor")
    compared: int = small.size + math.prod(found["output_shape"])
    return compared


def _main_vector(engine: Engine, x: Array) -> dict[str, Any]:
    net, size = engine.main_net, engine.main_size
    tiled = main_input(x, net, size)
    y = engine.library(net, size)(tiled)
    little_endian = np.ascontiguousarray(y, dtype=y.dtype.newbyteorder("<"))
    return {
        "input_shape": list(tiled.shape),
        "input_dtype": str(tiled.dtype),
        "output_shape": list(y.shape),
        "output_dtype": str(y.dtype),
        "output_sha256": hashlib.sha256(little_endian.data).hexdigest(),
    }


def _damaged(folder: Path, why: str) -> BundleError:
    return BundleError(
        f"the golden vectors cannot be read: {why}", where=str(folder), fix="fetch it again"
    )


def _different(path: Path, who: str) -> NotBitExactError:
    return NotBitExactError(
        f"{who} gives another answer than the golden vector",
        where=str(path),
        fix="please report it with the bundle and /proc/cpuinfo",
    )
