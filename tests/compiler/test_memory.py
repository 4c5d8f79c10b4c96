"""Memory of a library for whole frames, as the growth of a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from compiler.host import FEATURES, Host, cpu_features
from compiler.library import build_library
from compiler.network import Kind
from tests.networks import bicubic_plusplus

ROOT = Path(__file__).parents[2]
BEST = [isa for isa, features in FEATURES.items() if features <= cpu_features()][-1]
HEIGHT, WIDTH, THREADS = 1080, 1920, 2
MOST_BYTES = 15_000_000  # beyond input and output

RUN = f"""
import sys
from pathlib import Path
import numpy as np
from compiler.host import Host
from compiler.library import load_library

def resident_bytes():
    line = next(s for s in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in s)
    return 1024 * int(line.split()[1])

shape = (1, 3, {HEIGHT}, {WIDTH}) if sys.argv[2] == "float32" else (1, {HEIGHT}, {WIDTH}, 3)
x = np.ones(shape, sys.argv[2])
before = resident_bytes()
library = load_library(Path(sys.argv[1]), Host("{BEST}", {THREADS}))
for _ in range(3):
    y = None  # a caller that is done with a frame before it asks for the next
    y = library(x)
print(resident_bytes() - before - y.nbytes)
"""


@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_a_1080p_frame_needs_little_beyond_input_and_output(kind: Kind, tmp_path: Path) -> None:
    """The 3x network, whose weights do not matter here."""
    net = bicubic_plusplus(3, output=kind, input_kind=kind)
    path = tmp_path / "mod.so"
    info = build_library(net, (HEIGHT, WIDTH), Host(BEST, THREADS), path)
    assert info.workspace_bytes + info.constant_bytes < MOST_BYTES / 2
    threads = {"TVM_NUM_THREADS": str(THREADS), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", RUN, path, kind],
        env=os.environ | threads, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    grown = int(done.stdout)
    assert grown < MOST_BYTES
